"""Whether a base model can be used: it is whole, computes numbers, is causal, and takes vectors in place of
tokens; its tokenizer fits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from qpeft_rerank.errors import InputError, one_line

if TYPE_CHECKING:
    from qpeft_rerank.models.base import BaseModel

# Anything that tokenizers treat differently: case, digits, accents, scripts, blanks, a line break, an emoji.
PROBE = "Hello hello  WORLD 1234.5%\n\tnaïve café Straße 東京 Москва مرحبا 🦙 it's <s> </s> [MASK]"


def check_complete(model: nn.Module, name: str, missing: set[str], output_layer: bool) -> None:
    """Refuse a model whose files lack weights, since transformers draws them at random.

    Args:
        model: as it was loaded.
        name: of the model, for the message.
        missing: names of the weights that its files lack.
        output_layer: whether it must have one. If not, weights that are missing there are drawn anew, always
            the same.

    Raises:
        InputError: something is missing that is needed.
    """
    body = f"{model.base_model_prefix}.".lstrip(".")  # where it has no name, all counts as the body
    if lacking := sorted(name for name in missing if name.startswith(body)):
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise InputError(f"model {name!r} is not whole: its files lack {lacking[0]}{more}")
    if missing and output_layer:
        raise InputError(
            f"model {name!r} has no output layer ({min(missing)}): it is an encoder, not a language model"
        )
    for key, parameter in model.named_parameters():
        if key in missing:  # never used, but the same in every process, as fingerprints expect
            with torch.no_grad():
                parameter.normal_(std=0.02, generator=torch.Generator(parameter.device).manual_seed(0))


def check_base(base: BaseModel) -> None:
    """Model and tokenizer fit, and the model is causal: a later token must not change what it says of an
    earlier one. Raises `InputError`.
    """
    size = base.embeddings.weight.shape[0]
    probe = base.tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    if not probe or max(*probe, *_usable_ids(base.tokenizer)) >= size:
        raise InputError(
            f"the tokenizer of {base.name!r} has ids that its model (vocabulary {size}) does not"
        )
    ids = torch.tensor([probe[:3] + [probe[0]], probe[:3] + [probe[-1]]], device=base.device)
    if probe[0] == probe[-1]:
        ids[1, -1] = (probe[0] + 1) % size
    with torch.inference_mode():
        try:
            logits = base.model(input_ids=ids, use_cache=False).logits[:, :3].float()
            embedded = base.model(inputs_embeds=base.embeddings(ids), use_cache=False).logits[:, :3].float()
        except (TypeError, AttributeError, ValueError) as error:
            raise InputError(f"model {base.name!r} is no causal language model: {one_line(error)}") from error
    if not logits.isfinite().all():
        raise InputError(
            f"model {base.name!r} computes no finite numbers in {base.describe()['dtype']}: try another dtype"
        )
    tolerance = (1e-4 if base.dtype == torch.float32 else 0.05) * float(logits.std()) + 1e-6
    if not torch.allclose(logits[0], logits[1], atol=tolerance, rtol=0):
        raise InputError(
            f"model {base.name!r} is not causal: it looks at later tokens, so query likelihood means nothing "
            "(as a dense encoder it needs pooling mean or cls)"
        )
    if not torch.allclose(logits, embedded, atol=tolerance, rtol=0):
        raise InputError(
            f"model {base.name!r} cannot take hints: it needs more of a token than its embedding"
        )


def _usable_ids(tokenizer: Any) -> set[int]:
    """Ids that a text can have, and those of bos and eos; other special tokens (a [PAD] added later) are
    never used.
    """
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    ends = {i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None}
    return set(tokenizer.get_vocab().values()) - special | ends
