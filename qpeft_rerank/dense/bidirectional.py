"""BERT-type encoders, and folders of sentence-transformers, run by transformers alone.

Read from such a folder: ``modules.json`` (which steps there are), the pooling's ``config.json``,
``sentence_bert_config.json`` (length) and ``config_sentence_transformers.json`` (prompts). Vectors always get
length 1; a folder with further steps, such as a dense layer, is refused rather than run in part.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qpeft_rerank.dense.batches import embed
from qpeft_rerank.dense.config import EncoderConfig
from qpeft_rerank.dense.description import describe_encoder
from qpeft_rerank.dense.hub import find_file
from qpeft_rerank.errors import InputError, one_line
from qpeft_rerank.models.base import DTYPES, BaseModel
from qpeft_rerank.models.inputs import MOST_CHARACTERS_PER_TOKEN, encodable, passage_text
from qpeft_rerank.passages import Passage
from qpeft_rerank.scoring import default_limits

MODULES_FILE = "modules.json"
# By the names that sentence-transformers gives them, in its older files and in its newer ones.
_OLD_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
_POOLINGS = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
_MOST_TOKENS = 512  # where the folder does not say; the model may take more


class BidirectionalEncoder(nn.Module):
    """An `Encoder` made of a model whose tokens see each other, with mean, first-token or last-token pooling.

    Args:
        base: model (no output layer) and tokenizer; the tokenizer's own special tokens go around a text.
        config: prefixes, lengths (special tokens counted here) and pooling.
        batch_tokens: positions in a batch, by default what fits the device.
    """

    def __init__(self, base: BaseModel, config: EncoderConfig, batch_tokens: int | None = None):
        super().__init__()
        if config.query_suffix or config.passage_suffix or config.query_marks or config.passage_marks:
            raise InputError("query_suffix, passage_suffix and marks are for causal models")
        self.base, self.config, self.model = base, config, base.model
        self.batch_tokens = default_limits(self.base, batch_tokens).tokens

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return int(self.encode_queries(["a"]).shape[1])

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """See `Encoder`."""
        return self._encode(self.config.query_prefix, texts, self.config.query_tokens, None)

    def encode_passages(
        self, passages: Sequence[Passage], progress: Callable[[int], object] | None = None
    ) -> np.ndarray:
        """See `Encoder`."""
        texts = [passage_text(passage, "title text") for passage in passages]
        return self._encode(self.config.passage_prefix, texts, self.config.passage_tokens, progress)

    def describe(self) -> dict[str, Any]:
        """See `Encoder`."""
        return describe_encoder(self.base, self.config, False)

    def forward(self, ids: Tensor, length: Tensor) -> Tensor:
        """Vectors [B, D] of length 1, fp32, of right-padded ids [B, T]."""
        seen = torch.arange(ids.shape[1], device=ids.device) < length[:, None]
        states = self.model(input_ids=ids, attention_mask=seen.long()).last_hidden_state.float()
        if self.config.pooling == "cls":
            vectors = states[:, 0]
        elif self.config.pooling == "last":
            vectors = states[torch.arange(len(ids), device=ids.device), length - 1]
        else:
            vectors = (states * seen[:, :, None]).sum(dim=1) / length[:, None]
        return F.normalize(vectors, dim=-1)

    def _encode(
        self, prefix: str, texts: Sequence[str], tokens: int, progress: Callable[[int], object] | None
    ) -> np.ndarray:
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        heads = [(prefix + text)[: tokens * MOST_CHARACTERS_PER_TOKEN + len(prefix)] for text in texts]
        inputs = self.base.tokenizer(encodable(heads), truncation=True, max_length=tokens, verbose=False)[
            "input_ids"
        ]
        return embed(inputs, self, self.base.device, self.batch_tokens, progress)


def is_sentence_transformers(model: str, revision: str | None = None) -> bool:
    """Whether a folder, or a model of the hub, is one of sentence-transformers."""
    return find_file(model, MODULES_FILE, revision) is not None


def load(
    model: str,
    settings: dict[str, Any],
    batch_tokens: int | None = None,
    template: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    revision: str | None = None,
    **others: Any,
) -> BidirectionalEncoder:
    """Load an encoder; what its folder says of pooling, prompts and lengths holds unless ``settings`` say
    else.

    Raises:
        InputError: it cannot be loaded, or has steps that are not known here.
    """
    from transformers import AutoModel, AutoTokenizer

    from qpeft_rerank.models.base import default_device, default_dtype, without_progress_bars

    for name in others:
        raise InputError(f"{name}: only for causal models, and {model!r} is run as a bidirectional one")
    found, subfolder = _read_folder(model, revision)
    device = device or default_device()
    try:
        options: dict[str, Any] = {"revision": revision or "main", "subfolder": subfolder}
        tokenizer = AutoTokenizer.from_pretrained(model, **options)
        with without_progress_bars():
            loaded = AutoModel.from_pretrained(
                model, use_safetensors=True, dtype=DTYPES[dtype or default_dtype(device)], **options
            ).to(device)
    except Exception as error:  # transformers raises anything from OSError to KeyError for a bad folder
        raise InputError(f"encoder {model!r} cannot be loaded: {one_line(error)}") from error
    base = BaseModel(loaded.eval().requires_grad_(False), tokenizer, model, revision)
    own = found.pop("tokens", None)
    limit = min(_positions(base), tokenizer.model_max_length, own or sys.maxsize)
    usual = limit if own else min(limit, _MOST_TOKENS)
    config = {"query_tokens": usual, "passage_tokens": usual, **found, **settings}
    for key in ("query_tokens", "passage_tokens"):
        config[key] = min(config[key], limit)
    encoder = BidirectionalEncoder(base, EncoderConfig.of(template or "plain", **config), batch_tokens)
    if encoder.config.pooling == "cls" and np.array_equal(*encoder.encode_queries(["one two", "one three"])):
        raise InputError(f"pooling: the first state of {model!r} knows nothing of a text: take mean or last")
    return encoder


def _positions(base: BaseModel) -> int:
    """The longest input that the model has positions for."""
    for name, table in base.model.named_modules():
        # RoBERTa's kind counts from behind the padding's id on, and has no position for what is before.
        if name.endswith("position_embeddings") and getattr(table, "padding_idx", None) is not None:
            return table.num_embeddings - table.padding_idx - 1
    return base.context or _MOST_TOKENS


def _read_folder(model: str, revision: str | None) -> tuple[dict[str, Any], str]:
    """Settings that the folder gives (and ``tokens``), and where in it the transformer lies."""
    modules = _read(model, MODULES_FILE, revision)
    if modules is None:
        return {}, ""
    settings: dict[str, Any] = {"pooling": "mean"}
    subfolder = ""
    for module in modules:
        kind, place = str(module.get("type", "")).rpartition(".")[2], module.get("path", "")
        if kind == "Transformer":
            subfolder = place
        elif kind == "Pooling":
            settings["pooling"] = _pooling(_read(model, f"{place}/config.json", revision) or {}, model)
        elif kind != "Normalize":
            raise InputError(f"encoder {model!r} has a step {kind!r}, which is not known here")
    details = _read(model, f"{subfolder}/sentence_bert_config.json".lstrip("/"), revision) or {}
    if details.get("do_lower_case"):
        raise InputError(
            f"encoder {model!r} wants its texts in lower case (do_lower_case), which is not known here"
        )
    if isinstance(details.get("max_seq_length"), int):
        settings["tokens"] = details["max_seq_length"]
    prompts = (_read(model, "config_sentence_transformers.json", revision) or {}).get("prompts") or {}
    for key, names in (("query_prefix", ("query",)), ("passage_prefix", ("document", "passage", "corpus"))):
        for name in names:
            if prompts.get(name):
                settings.setdefault(key, prompts[name])
    return settings, subfolder


def _pooling(config: dict[str, Any], model: str) -> str:
    if config.get("include_prompt") is False:
        raise InputError(
            f"encoder {model!r} pools without its prompt (include_prompt), which is not known here"
        )
    modes = config.get("pooling_mode") or [new for old, new in _OLD_POOLINGS.items() if config.get(old)]
    modes = [modes] if isinstance(modes, str) else list(modes) or ["mean"]
    if len(modes) > 1 or modes[0] not in _POOLINGS:
        raise InputError(
            f"encoder {model!r} pools by {' and '.join(modes)}; known are {', '.join(_POOLINGS)}"
        )
    return _POOLINGS[modes[0]]


def _read(model: str, name: str, revision: str | None) -> Any:
    path = find_file(model, name, revision)
    if path is None:
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
