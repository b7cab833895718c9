"""The encoder of the dense first stage, as `encode` and `dense` name it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from qpeft_rerank.cli.options import borrowed, option
from qpeft_rerank.cli.shared_options import ModelOptions
from qpeft_rerank.dense.config import TEMPLATES, EncoderConfig
from qpeft_rerank.errors import InputError

if TYPE_CHECKING:
    from qpeft_rerank.dense.encoder import Encoder


@dataclass(kw_only=True)
class TextOptions:
    """How texts are put to the encoder."""

    title: ClassVar[str] = "encoder"

    adapter: str | None = option(
        None, "LoRA folder or Hugging Face name: of `qpeft train --method repllama`, or a published RepLLaMA"
    )
    template: str | None = option(
        None,
        "words around queries and passages (default: as the folder of model or adapter says, else repllama)",
        choices=tuple(TEMPLATES),
    )
    pooling: str | None = borrowed(EncoderConfig, "pooling", "; mean and cls are for BERT-type models")
    query_prefix: str | None = borrowed(EncoderConfig, "query_prefix")
    passage_prefix: str | None = borrowed(EncoderConfig, "passage_prefix")
    query_tokens: int | None = borrowed(EncoderConfig, "query_tokens")
    passage_tokens: int | None = borrowed(EncoderConfig, "passage_tokens")
    batch_tokens: int | None = option(
        None, "positions in a batch, padding counted (default: what fits the device)", least=1
    )

    def settings(self) -> dict[str, Any]:
        """The fields of `EncoderConfig` that are given."""
        names = ("pooling", "query_prefix", "passage_prefix", "query_tokens", "passage_tokens")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(kw_only=True)
class EncoderOptions(TextOptions, ModelOptions):
    """The encoder, by model, adapter and settings."""

    model: str | None = option(
        None,
        "Hugging Face name or folder of a causal or a sentence-transformers model; 'demo' is the packaged one"
        " (default: the adapter's)",
    )

    revision: str | None = option(
        None, "branch, tag or commit of the model on the hub; with an adapter, of its base model"
    )
    adapter_revision: str | None = option(None, "branch, tag or commit of the adapter on the hub")

    def open_encoder(self, **known: Any) -> Encoder:
        """Load the encoder; ``known`` are arguments of `open_encoder` for what no flag says."""
        from qpeft_rerank.dense.encoder import open_encoder

        if self.adapter is not None and self.lora is not None:
            raise InputError("--adapter and --lora are both a LoRA: give one")
        if self.adapter_revision is not None and not (self.adapter or known.get("adapter")):
            raise InputError("--adapter-revision is of an adapter: name it with --adapter")
        # Where a flag names something else, what is known of the former does not hold for it.
        for name, others in (
            ("model", ("revision",)),
            ("adapter", ("adapter_revision",)),
            ("lora", ("adapter", "adapter_revision")),
            ("template", ("settings",)),
        ):
            if getattr(self, name) is not None:
                known = {key: value for key, value in known.items() if key not in others}
        names = ("model", "adapter", "adapter_revision", "template")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        return open_encoder(
            **{
                **known,
                **given,
                **self.base_options(),
                "settings": {**known.get("settings", {}), **self.settings()},
                "batch_tokens": self.batch_tokens,
            }
        )
