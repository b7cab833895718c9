"""What is written down of an encoder beside its vectors, and the same encoder opened again by it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qpeft_rerank.dense.config import EncoderConfig
from qpeft_rerank.dense.hub import commit_of

if TYPE_CHECKING:
    from qpeft_rerank.models.base import BaseModel

# Where weights lie. They may be moved: whether they are the same is told by the probe, not by these.
PLACES = ("name", "revision", "lora", "lora_revision")


def describe_encoder(
    base: BaseModel, config: EncoderConfig, causal: bool, lora_revision: str | None = None
) -> dict[str, Any]:
    """All that vectors depend on, JSON-ready.

    Args:
        base: model and tokenizer. For one of the hub the commit is written down, not the branch.
        config: how texts are put to it.
        causal: whether it is run as a causal model.
        lora_revision: commit of its LoRA on the hub, where that is known.
    """
    from qpeft_rerank.models.lora import CONFIG_FILE

    facts = base.describe()
    del facts["device"]  # of no matter to the vectors
    facts["revision"] = commit_of(base.name, base.revision) or base.revision
    if base.lora is not None:
        lora_revision = lora_revision or commit_of(base.lora, None, CONFIG_FILE)
    return {**facts, "lora_revision": lora_revision, "causal": causal, "settings": config.to_dict()}


def encoder_arguments(description: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `open_encoder` for the encoder that was described."""
    quantization = description.get("quantization") or {}
    known = {
        "revision": description.get("revision"),
        "adapter": description.get("lora"),
        "adapter_revision": description.get("lora_revision"),
        "dtype": description.get("dtype"),
        "quantize": next((bits for bits in ("8bit", "4bit") if quantization.get(f"load_in_{bits}")), None),
        # The settings say all that a template would; any makes `open_encoder` run a causal model.
        "template": "plain" if description.get("causal") else None,
    }
    return {
        "model": description["name"],
        "settings": description["settings"],
        **{key: value for key, value in known.items() if value is not None},
    }
