"""Language models of named shapes with random weights, and cross-encoders of the same size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from qpeft_rerank.models.base import DEMO_MODEL, DTYPES, BaseModel, load_base
from qpeft_rerank.models.config import AdapterConfig
from qpeft_rerank.models.likelihood import QueryLikelihood
from qpeft_rerank.reranker import Reranker


def _shape(
    hidden: int, layers: int, heads: int, key_value: int, inner: int, vocabulary: int, tied: bool
) -> dict:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 2048,
    }


DEMO = "packaged"
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": _shape(64, 2, 4, 4, 128, 6144, True),  # 0.5 million parameters
    "12-layer": _shape(512, 12, 8, 8, 1376, 32_000, False),
    "0.5b": _shape(896, 24, 14, 2, 4864, 151_936, True),  # Qwen2.5-0.5B
    "1.5b": _shape(1536, 28, 12, 2, 8960, 151_936, True),  # Qwen2.5-1.5B
    "7b": _shape(4096, 32, 32, 32, 11_008, 32_000, False),  # Llama-2-7B
}
NAMES = (*SHAPES, DEMO)
METHODS: dict[str, dict[str, Any]] = {
    "hard-prompt": {},
    "qpeft-r": {"k": 15},
    "qpeft-a": {"heads": 2},
}


def random_base(
    name: str, dtype: str = "float32", device: str = "cpu", layers: int | None = None
) -> BaseModel:
    """A model of this shape with the packaged tokenizer; ``packaged`` is the packaged model itself."""
    if name == DEMO:
        return load_base("demo", dtype=dtype, device=device)
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    shape = SHAPES[name] | ({} if layers is None else {"num_hidden_layers": layers})
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    config = LlamaConfig(
        **shape, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=None
    )
    torch.manual_seed(0)
    with torch.device(device):  # made where it is used: 7 billion weights take long elsewhere
        model = AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype])
    return BaseModel(model.eval().requires_grad_(False), tokenizer, name)


def random_reranker(base: BaseModel, method: str, placement: str = "suffix") -> Reranker:
    """A reranker whose trained part has random weights, too."""
    settings = METHODS[method] | ({} if method == "hard-prompt" else {"placement": placement})
    torch.manual_seed(1)
    return Reranker(QueryLikelihood(base, AdapterConfig(method=method, **settings)))


def parameters(model: torch.nn.Module) -> int:
    """How many weights a model has, tied ones once."""
    return sum(p.numel() for p in model.parameters())


def random_cross_encoder(base: BaseModel, folder: Path) -> Path:
    """The folder of a BERT with one output, of the same layers, width and vocabulary, and the same tokenizer.

    Its feed-forward layers are half as wide again: BERT has two matrices there, a Llama three, so a layer has
    as many weights.
    """
    from transformers import BertConfig, BertForSequenceClassification
    from transformers.utils import logging

    logging.disable_progress_bar()
    like = base.model.config
    config = BertConfig(
        hidden_size=like.hidden_size,
        num_hidden_layers=like.num_hidden_layers,
        num_attention_heads=like.num_attention_heads,
        intermediate_size=like.intermediate_size * 3 // 2,
        vocab_size=like.vocab_size,
        num_labels=1,
        pad_token_id=base.tokenizer.pad_token_id or 0,
    )
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder
