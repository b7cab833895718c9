"""What an adapter is: one checked dataclass that goes to and from JSON.

Everything a score depends on besides the base model's weights stands here; each field carries its own help
text, which the command line shows.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from qpeft_rerank.errors import AdapterError, InputError
from qpeft_rerank.settings import check_settings, setting

LIKELIHOOD_METHODS = ("hard-prompt", "soft-prompt", "qpeft-r", "qpeft-a", "vocab", "token", "random")
METHODS = (*LIKELIHOOD_METHODS, "rankllama", "repllama")
ENCODERS = ("repllama",)  # methods that give a text a vector, and score no pairs
RETRIEVAL_METHODS = ("qpeft-r", "vocab", "token", "random")
HINT_METHODS = (*RETRIEVAL_METHODS, "qpeft-a")
FILTERS = ("duplicates", "query", "stopwords", "non-alphabetic")
PROMPT = "Please generate a question for the input passage."
PROMPT_WITH_HINTS = "Given the hints, please generate a question for the input passage."
PASSAGE_FORMATS = ("title text", "text+title", "title+text")
RANKLLAMA_RANK = 32  # as its published checkpoints
# What a method that is not a query likelihood has too; the other settings say how a likelihood is made.
_COMMON = ("method", "passage_tokens", "layout", "lora_rank", "lora_alpha", "lora_dropout", "lora_targets")


# The share of a model that was not trained for it in a candidate's score. Chosen on development topics of two
# collections with the packaged model (docs/experiments.md).
UNTRAINED_WEIGHT = 0.5


@dataclass(frozen=True)
class AdapterConfig:
    """The settings of one reranker (METHOD: Peng et al., arXiv 2404.04522).

    Raises:
        InputError: a field has a value that is not possible; the message names field and value.
    """

    method: str = setting(
        "qpeft-a",
        "how hints are made; hard-prompt has none, random draws them by lot (a control); rankllama is no "
        "query likelihood but a linear head, repllama an encoder of the dense first stage",
        choices=METHODS,
    )
    prompt: str | None = setting(
        None, "instruction in front of the input (default: one that fits the method)"
    )
    soft_prompt: bool = setting(
        False, "train the prompt's vectors too (always so for the method soft-prompt)"
    )
    prompt_layers: int = setting(
        0, "depth n of the MLP on the soft prompt: Linear, then n times ReLU and Linear; 0 is none", least=0
    )
    k: int = setting(15, "hints per pair (qpeft-r, vocab, random) or per query token (token)", least=1)
    heads: int = setting(2, "attention heads (qpeft-a)", least=1)
    placement: str = setting(
        "suffix",
        "where hints stand: before the passage, or after it (then a passage is run once for all its topics)",
        choices=("prefix", "suffix"),
    )
    similarity: str = setting(
        "cosine", "how tokens are compared (qpeft-r, vocab, token)", choices=("cosine", "dot")
    )
    filters: tuple[str, ...] = setting(FILTERS, "tokens that cannot be hints", choices=FILTERS)
    hint_layers: int = setting(1, "depth n of the MLP on the hints; 0 is none", least=0)
    hint_table: str = setting(
        "trained",
        "embedding table of the hints: a trained copy of the model's, or the model's own",
        choices=("trained", "frozen"),
    )
    hint_prefix: str = setting("hints: ", "text in front of the hints")
    attention_dropout: float = setting(
        0.1, "dropout of the attention weights in training (qpeft-a)", least=0, below=1
    )
    passage_tokens: int = setting(
        300, "a passage is cut after this many tokens; query, prompt and hints never are", least=1
    )
    passage_format: str = setting(
        "title text",
        "how title and text are joined; the last two are the published code's",
        choices=PASSAGE_FORMATS,
    )
    layout: str = setting(
        "default",
        "order and special tokens of the input; 'published' is the research code's exactly",
        choices=("default", "published"),
    )

    fixed_prompt: str = setting("", "text in front of the passage (published layout only)")
    lora_rank: int = setting(
        0,
        f"train a LoRA of this rank in the model too; 0 is none (rankllama, repllama: {RANKLLAMA_RANK})",
        least=0,
    )
    lora_alpha: int | None = setting(
        None, "weight of the LoRA, divided by its rank (default: twice the rank)", least=1
    )
    lora_dropout: float = setting(0.1, "dropout of the LoRA's input in training", least=0, below=1)
    lora_targets: tuple[str, ...] = setting(
        (), "linear layers that get a LoRA, e.g. q_proj,v_proj (default: all of the model's blocks)"
    )

    def __post_init__(self) -> None:
        check_settings(self)
        object.__setattr__(self, "filters", tuple(f for f in FILTERS if f in self.filters))
        if self.method == "soft-prompt":
            object.__setattr__(self, "soft_prompt", True)
        if self.prompt_layers and not self.soft_prompt:
            raise InputError(f"prompt_layers: {self.prompt_layers} needs a soft prompt")
        self._check_lora()
        if self.method not in LIKELIHOOD_METHODS:
            self._check_common()
        elif self.prompt is None:
            object.__setattr__(self, "prompt", PROMPT_WITH_HINTS if self.has_hints else PROMPT)
        if self.fixed_prompt and self.layout != "published":
            raise InputError("fixed_prompt: only the published layout has one; use prompt")
        if self.layout == "published" and self.method == "random":
            raise InputError("layout: the published code has no method random")
        if self.soft_prompt and not self.prompt:
            raise InputError("prompt: an empty prompt has no vectors to train")

    def _check_common(self) -> None:
        for f in fields(self):
            if f.name not in _COMMON and (getattr(self, f.name) or None) != (f.default or None):
                raise InputError(f"{f.name}: the method {self.method} has no such setting")
        object.__setattr__(self, "prompt", "")

    def _check_lora(self) -> None:
        if self.method not in LIKELIHOOD_METHODS and not self.lora_rank:
            object.__setattr__(self, "lora_rank", RANKLLAMA_RANK)
        object.__setattr__(self, "lora_targets", tuple(self.lora_targets))
        if not self.lora_rank and (self.lora_alpha is not None or self.lora_targets):
            raise InputError(f"lora_{'targets' if self.lora_targets else 'alpha'}: needs a lora_rank")
        if self.lora_rank and self.lora_alpha is None:
            object.__setattr__(self, "lora_alpha", 2 * self.lora_rank)

    @property
    def has_hints(self) -> bool:
        """Whether the method puts hints in the input."""
        return self.method in HINT_METHODS

    @property
    def is_likelihood(self) -> bool:
        """Whether the method asks the model for the likelihood of a text."""
        return self.method in LIKELIHOOD_METHODS

    @property
    def trainable(self) -> bool:
        """Whether there is anything to train."""
        return self.soft_prompt or self.has_hints or self.lora_rank > 0

    @property
    def prompt_alone(self) -> bool:
        """Whether the vectors of a soft prompt are all that is trained."""
        return self.soft_prompt and not (self.has_hints or self.lora_rank or self.prompt_layers)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary; `from_dict` is its inverse."""
        return {**asdict(self), "filters": list(self.filters), "lora_targets": list(self.lora_targets)}

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: object = "adapter_config.json") -> AdapterConfig:
        """Check and build. Raises `AdapterError` that names ``where`` and the key."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise AdapterError(
                f"{where}: unknown setting {unknown[0]!r}; this version knows {', '.join(sorted(known))}"
            )
        try:
            return cls(**values)
        except (InputError, TypeError) as error:
            raise AdapterError(f"{where}: {error}") from error
