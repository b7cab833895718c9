"""Settings of an adaptation by LLaRA; each field carries the help text that the command line shows."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from qpeft_rerank.dense.config import EncoderConfig
from qpeft_rerank.errors import InputError
from qpeft_rerank.models.config import AdapterConfig
from qpeft_rerank.settings import check_settings, setting
from qpeft_rerank.training.config import MOST_SEED, TrainingConfig

METHOD = "llara"


def _of(config: type, name: str, default: Any) -> Any:
    f = next(f for f in fields(config) if f.name == name)
    return field(default=default, metadata=f.metadata)


@dataclass(frozen=True)
class LlaraConfig:
    """Settings of an adaptation.

    Raises:
        InputError: a field has a value that is not possible; the message names field and value.
    """

    template: str = setting(
        "llara",
        "prompts and special tokens: those of the released code and models, or those of the paper's text "
        "as its readers quote them",
        choices=("llara", "llara-paper"),
    )
    passages: int = setting(0, "passages to learn from, sampled; 0 is all", least=0)
    passage_words: int = setting(100, "words of a passage that is cut from plain text, about", least=1)
    passage_tokens: int = setting(160, "a passage is cut after this many tokens", least=2)
    lm_weight: float = setting(1.0, "weight of the next-token loss", least=0)
    bag_weight: float = setting(0.1, "weight of the two bag-of-words losses", least=0)
    lora_rank: int = setting(0, "train a LoRA of this rank and merge it; 0 trains the whole model", least=0)
    lora_targets: tuple[str, ...] = _of(AdapterConfig, "lora_targets", ())
    epochs: int = _of(TrainingConfig, "epochs", 1)
    batch_size: int = setting(16, "passages per step and process", least=1)
    accumulate: int = _of(TrainingConfig, "accumulate", 1)
    learning_rate: float = setting(1e-4, "of AdamW", least=0)
    weight_decay: float = setting(0.0, "of AdamW", least=0)
    schedule: str = _of(TrainingConfig, "schedule", "linear")
    warmup: float = _of(TrainingConfig, "warmup", 0.1)
    clip: float = _of(TrainingConfig, "clip", 1.0)
    seed: int = setting(
        0, "of the sample, its order, and the special tokens' first vectors", least=0, most=MOST_SEED
    )
    mixed_precision: str = _of(TrainingConfig, "mixed_precision", "no")
    checkpoint_activations: bool = _of(TrainingConfig, "checkpoint_activations", False)
    checkpoint_steps: int = _of(TrainingConfig, "checkpoint_steps", 0)

    def __post_init__(self) -> None:
        check_settings(self)
        object.__setattr__(self, "lora_targets", tuple(self.lora_targets))
        if not self.lm_weight + self.bag_weight:
            raise InputError("lm_weight, bag_weight: both are 0, nothing would be learned")
        if self.lora_rank and self.weight_decay:
            raise InputError("weight_decay: with a LoRA it would shrink all tokens' vectors: leave it at 0")
        self.training()

    def training(self) -> TrainingConfig:
        """What the training loop needs of these."""
        there = {f.name for f in fields(TrainingConfig)}
        return TrainingConfig(**{f.name: getattr(self, f.name) for f in fields(self) if f.name in there})

    def encoder(self) -> EncoderConfig:
        """How texts are put to the model once it is adapted."""
        return EncoderConfig.of(self.template)

    @property
    def method(self) -> str:
        """Name of the method, for records."""
        return METHOD

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "lora_targets": list(self.lora_targets), "method": METHOD}
