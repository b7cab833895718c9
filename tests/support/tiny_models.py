"""Causal language models of two layers with random weights, and a tokenizer trained on a few lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from qpeft_rerank.models.base import BaseModel
from qpeft_rerank.models.config import AdapterConfig
from qpeft_rerank.models.methods import make_scorer
from qpeft_rerank.models.scorer import Scorer
from qpeft_rerank.passages import Passage

PARITY_MODEL = Path(__file__).parent.parent / "parity" / "model"
VOCABULARY, HIDDEN = 420, 32
_LINES = [
    "A waggle dance tells the other bees of a hive where the flowers are and how far one has to fly.",
    "The old lighthouse of the northern cape was built of granite in 1846, and its lamp burned oil.",
    "Please generate a question for the input passage. Given the hints, please answer.",
    "Passage: Question: hints: what which where when who how is was were does did the a of in",
    "Glaciers carve valleys; rivers carry the sand to the sea, where it becomes stone again.",
    "Salt was traded for centuries along the roads of the desert by caravans of camels.",
]

# Sizes by the names that each architecture gives them.
_LLAMA = {
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
_NEOX = {
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {**_LLAMA, "tie_word_embeddings": False}),
    "llama-tied": ("llama", {**_LLAMA, "tie_word_embeddings": True}),
    "qwen2": ("qwen2", {**_LLAMA, "tie_word_embeddings": True}),
    "qwen3": ("qwen3", {**_LLAMA, "head_dim": 8}),
    "mistral": ("mistral", {**_LLAMA, "sliding_window": None}),
    "mistral-window": ("mistral", {**_LLAMA, "sliding_window": 24}),
    "gemma": ("gemma", {**_LLAMA, "head_dim": 8}),
    "gemma2": (
        "gemma2",
        {
            **_LLAMA,
            "head_dim": 8,
            "sliding_window": 4096,
            "final_logit_softcapping": 2.0,
            "attn_logit_softcapping": 3.0,
            "query_pre_attn_scalar": 8,
        },
    ),
    "gemma3": ("gemma3_text", {**_LLAMA, "head_dim": 8, "sliding_window": 4096, "query_pre_attn_scalar": 8}),
    "gpt2": ("gpt2", {"n_embd": HIDDEN, "n_layer": 2, "n_head": 4, "n_positions": 512}),
    "gpt-neox": ("gpt_neox", _NEOX),
    "opt": (
        "opt",
        {
            "hidden_size": HIDDEN,
            "ffn_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 512,
            "word_embed_proj_dim": 16,
        },
    ),
    "phi": ("phi", _NEOX),
}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
_MLA = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
# What each of these does is unlike the others: places by distance, windows, experts, other caches.
ODD: dict[str, tuple[str, dict[str, Any]]] = {
    "mpt": ("mpt", {"d_model": HIDDEN, "n_layers": 2, "n_heads": 4, "max_seq_len": 512}),
    "gpt-neo": (
        "gpt_neo",
        {
            "hidden_size": HIDDEN,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 60,
            "max_position_embeddings": 512,
        },
    ),
    "minimax": (
        "minimax",
        {
            **_LLAMA,
            "head_dim": 8,
            "num_local_experts": 2,
            "block_size": 16,
            "layer_types": ["linear_attention", "full_attention"],
        },
    ),
    "mixtral": ("mixtral", {**_LLAMA, "num_local_experts": 4}),
    "llama4": (
        "llama4_text",
        {
            **_LLAMA,
            "intermediate_size_mlp": 48,
            "head_dim": 8,
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "attention_chunk_size": 60,
        },
    ),
    "deepseek": (
        "deepseek_v3",
        {
            **_LLAMA,
            **_EXPERTS,
            **_MLA,
            "num_key_value_heads": 4,
            "n_routed_experts": 4,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
        },
    ),
    "bert": (
        "bert",
        {
            "hidden_size": HIDDEN,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "is_decoder": True,
        },
    ),
}


@cache
def _byte_level_bpe() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 3,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_LINES, trainer)
    return tokenizer.to_str()


def byte_tokenizer(
    bos: str | None = "<s>", eos: str | None = "</s>", pad: str | None = None
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with these special tokens, of `VOCABULARY` ids at most."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_byte_level_bpe()), bos_token=bos, eos_token=eos, pad_token=pad
    )


def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer in Llama 2's manner, of 600 ids: "▁" for blanks, bytes for what it does not know."""
    return AutoTokenizer.from_pretrained(PARITY_MODEL)


def tiny_model(
    architecture: str = "llama", vocabulary: int = VOCABULARY, seed: int = 0, **changes: Any
) -> torch.nn.Module:
    """A frozen random fp32 model, of `ARCHITECTURES` or `ODD`; its scores differ well between passages."""
    kind, sizes = {**ARCHITECTURES, **ODD}[architecture]
    config = AutoConfig.for_model(
        kind,
        vocab_size=vocabulary,
        **{"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None, **sizes, **changes},
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if (
                parameter.dim() > 1
            ):  # transformers' own initial weights are so small that every passage scores alike
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.25)
    return model.eval().requires_grad_(False)


def tiny_base(
    architecture: str = "llama",
    tokenizer: PreTrainedTokenizerFast | None = None,
    seed: int = 0,
    **changes: Any,
) -> BaseModel:
    """Model and tokenizer as `load_base` gives them."""
    tokenizer = tokenizer or byte_tokenizer()
    vocabulary = max(VOCABULARY, len(tokenizer))
    return BaseModel(tiny_model(architecture, vocabulary, seed, **changes), tokenizer, f"tiny-{architecture}")


def save_base(
    folder: Path,
    architecture: str = "llama",
    tokenizer: PreTrainedTokenizerFast | None = None,
    seed: int = 0,
    **changes: Any,
) -> str:
    """A model folder in transformers' form; returns its name."""
    base = tiny_base(architecture, tokenizer, seed, **changes)
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return str(folder)


def tiny_scorer(base: BaseModel, method: str = "qpeft-r", seed: int = 1, **settings: Any) -> Scorer:
    """A scorer whose trained part has moved away from its start, as training would move it."""
    torch.manual_seed(seed)
    scorer = make_scorer(base, AdapterConfig(method=method, **settings))
    with torch.no_grad():
        for parameter in scorer.trained_parameters().values():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return scorer


class Corpus(dict[str, Passage]):
    """Passages in memory."""

    name = "the test's corpus"

    def get(self, docids: Sequence[str]) -> dict[str, Passage]:  # type: ignore[override]
        return {docid: self[docid] for docid in docids if docid in self}


def corpus(texts: Iterable[str]) -> Corpus:
    """Passages d0, d1 ... of these texts, without titles."""
    return Corpus({f"d{i}": Passage(f"d{i}", "", text) for i, text in enumerate(texts)})


TEXTS = tuple(_LINES)
