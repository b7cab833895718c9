"""An encoder by name: a causal language model (with a LoRA or not), or a folder of sentence-transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from qpeft_rerank.dense.config import EncoderConfig, read_encoder_config
from qpeft_rerank.dense.hub import find_file
from qpeft_rerank.errors import InputError
from qpeft_rerank.models.names import ENCODER_FILE
from qpeft_rerank.passages import Passage

# Anything that tokenizers treat differently; what an encoder makes of it tells it from others.
PROBE = (
    "Which café in 東京 served 1,234.5 % more WAFFLES than the one in Straße 7?\n\tIt's <s> not </s> known 🦙"
)
# Cosine distance of two encodings of the probe by the same encoder: in fp32, and where rounding is coarser.
SAME_PROBE = {"float32": 1e-5, "bfloat16": 5e-3, "float16": 1e-3}
QUANTIZED_PROBE = 0.1


class Encoder(Protocol):
    """What turns texts into vectors. The vectors have length 1, so that their dot product is their cosine."""

    config: EncoderConfig

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        ...

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of queries, float32 [N, D]."""
        ...

    def encode_passages(
        self, passages: Sequence[Passage], progress: Callable[[int], object] | None = None
    ) -> np.ndarray:
        """Vectors of passages, float32 [N, D]; ``progress`` hears how many each batch had."""
        ...

    def describe(self) -> dict[str, Any]:
        """All that the vectors depend on, JSON-ready: what `open_encoder` was given, and the settings."""
        ...


def open_encoder(
    model: str | None = None,
    adapter: str | None = None,
    template: str | None = None,
    batch_tokens: int | None = None,
    settings: dict[str, Any] | None = None,
    adapter_revision: str | None = None,
    **base_options: Any,
) -> Encoder:
    """Load an encoder.

    A folder with ``modules.json`` (sentence-transformers), unless a template is given, and any model with a
    ``pooling`` of mean or cls is run as a bidirectional model; every other model as a causal one.

    Args:
        model: Hugging Face name or folder; ``demo`` for the packaged model. May be left out where ``adapter``
            says what it was trained on.
        adapter: a LoRA folder or name: one of `qpeft train --method repllama`, or any peft LoRA, such as the
            published RepLLaMA.
        template: how texts are put to the model (`config.TEMPLATES`); by default what the folder's own
            ``encoder.json`` or ``modules.json`` says, else RepLLaMA's.
        batch_tokens: positions in a batch, by default what fits the device.
        settings: fields of `EncoderConfig` that are to be otherwise.
        adapter_revision: branch, tag or commit of the adapter on the hub.
        base_options: for `load_base` (dtype, device ..., and ``revision``, that of the model).

    Raises:
        InputError: it cannot be loaded, or the settings do not fit it.
    """
    from qpeft_rerank.dense import bidirectional
    from qpeft_rerank.dense.causal import CausalEncoder
    from qpeft_rerank.models import lora
    from qpeft_rerank.models.base import load_base
    from qpeft_rerank.models.names import check_name

    settings = dict(settings or {})
    if adapter is not None:
        from qpeft_rerank.dense.adapter import open_adapter

        return open_adapter(
            adapter, model, template, batch_tokens, settings, adapter_revision, **base_options
        )
    if model is None:
        raise InputError("no encoder given: name a model, or an adapter")
    if (Path(model) / lora.FOLDER).is_dir() and not (Path(model) / "config.json").is_file():
        raise InputError(f"{model} is no model, but a LoRA on one: name it as the adapter")
    check_name(model, base_options.get("revision"))
    if template is None and bidirectional.is_sentence_transformers(model, base_options.get("revision")):
        return bidirectional.load(model, settings, batch_tokens, **base_options)
    if settings.get("pooling", "last") != "last":
        return bidirectional.load(model, settings, batch_tokens, template, **base_options)
    config = choose_config(known_config(model, base_options.get("revision")), template, settings)
    return CausalEncoder(load_base(model, output_layer=False, **base_options), config, batch_tokens)


def known_config(model: str, revision: str | None = None) -> EncoderConfig:
    """What the ``encoder.json`` of a folder or model says; RepLLaMA's settings where it has none."""
    path = find_file(model, ENCODER_FILE, revision)
    return EncoderConfig() if path is None else read_encoder_config(path)


def choose_config(known: EncoderConfig, template: str | None, settings: dict[str, Any]) -> EncoderConfig:
    """The settings to use: single ones win over a template's, and these over what is known of the folder."""
    return (
        EncoderConfig.of(template, **settings)
        if template
        else EncoderConfig(**{**known.to_dict(), **settings})
    )


def encode_probe(encoder: Encoder) -> np.ndarray:
    """What an encoder makes of a probe text, as query and as passage: float32 [2, D]."""
    query = encoder.encode_queries([PROBE])
    return np.concatenate([query, encoder.encode_passages([Passage("probe", "Title", PROBE)])])


def check_probe(encoder: Encoder, expected: np.ndarray, where: object, dtype: str | None = None) -> None:
    """Raises `InputError` unless the encoder is the one whose `encode_probe` is ``expected``.

    Args:
        encoder: the one in question.
        expected: its vectors, float32 [2, D].
        where: what they were kept with, for the message.
        dtype: the type of weights that they were made with, by default that of ``encoder``.
    """
    found = encode_probe(encoder)
    if found.shape != expected.shape:
        raise InputError(
            f"{where}: was made by another encoder: its vectors have {expected.shape[1]} numbers, those of "
            f"this one {found.shape[1]}"
        )
    distance, facts = float(1 - (found * expected).sum(axis=1).min()), encoder.describe()
    rounding = max(SAME_PROBE[facts["dtype"]], SAME_PROBE[dtype or facts["dtype"]])
    if not distance <= (QUANTIZED_PROBE if facts.get("quantization") else rounding):
        raise InputError(
            f"{where}: was made by another encoder, or with other settings: a probe text gets another vector "
            f"(cosine {1 - distance:.4f})"
        )
