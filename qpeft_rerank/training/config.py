"""How an adapter is trained: one checked dataclass; each field carries the help text that the command line
shows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from qpeft_rerank.errors import InputError
from qpeft_rerank.measures import parse_measures
from qpeft_rerank.settings import check_settings, setting

SCHEDULES = ("constant", "linear")
MIXED_PRECISION = ("no", "bf16", "fp16")
LOSSES = ("hinge", "contrastive")
MOST_SEED = 2**32 - 1  # the seed of each step is made of it and must fit the 64 bits that torch takes
LEARNING_RATE, SOFT_PROMPT_LEARNING_RATE = 1e-3, 3e-2  # see "Learning rates" in docs/experiments.md
CONTRASTIVE = {"rankllama": 1.0, "repllama": 0.01}  # methods with that loss, and their papers' temperature


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a training run. Few-shot by default, as published (Peng et al., arXiv 2404.04522, section
    4).

    Raises:
        InputError: a field has a value that is not possible; the message names field and value.
    """

    train_topics: int = setting(
        320, "training topics, sampled from those with a relevant passage; 0 is all", least=0
    )
    dev_topics: int = setting(128, "development topics, sampled likewise; 0 is all", least=0)
    batch_size: int = setting(
        8, "topics per step and process; each is paired with every passage of the step", least=1
    )
    accumulate: int = setting(1, "steps whose gradients are added up before the weights change", least=1)
    negatives: int = setting(1, "hard negatives per topic, drawn anew each epoch from the run", least=1)
    negative_depth: int = setting(
        100, "hard negatives come from the run's first candidates down to here", least=1
    )
    relevance_level: int = setting(
        1,
        "least grade of a passage that is learned from; one of a lower grade above 0 is no hard negative",
        least=1,
    )
    in_batch: bool = setting(True, "use the other topics' passages of a step as negatives too")
    loss: str | None = setting(
        None,
        "'hinge' is the published one; 'contrastive' is a softmax over a topic's passages (default: hinge; "
        "rankllama, repllama: contrastive)",
        choices=LOSSES,
    )
    margin: float = setting(
        0.0, "hinge: how much better a positive should score than a negative, in nats per token", least=0
    )
    temperature: float | None = setting(
        None, "contrastive: scores are divided by it (default: 1; repllama: 0.01)", above=0
    )
    epochs: int = setting(20, "most epochs", least=1)
    patience: int = setting(5, "stop after this many epochs without a better development result", least=1)
    learning_rate: float | None = setting(
        None,
        f"of AdamW (default: {LEARNING_RATE:g}; a soft prompt by itself: {SOFT_PROMPT_LEARNING_RATE:g})",
        least=0,
    )
    weight_decay: float = setting(
        0.0, "of AdamW; it would also shrink hint vectors of tokens that are never met", least=0
    )
    schedule: str = setting("constant", "learning rate over the steps", choices=SCHEDULES)
    warmup: float = setting(
        0.0, "share of the steps in which the learning rate rises from 0", least=0, below=1
    )
    clip: float = setting(1.0, "largest norm of the gradient; 0 does not clip", least=0)
    select: str = setting(
        "loss", "choose the best epoch by development 'loss' or by a measure such as nDCG@10"
    )
    seed: int = setting(0, "of sampling, initial weights and dropout", least=0, most=MOST_SEED)
    mixed_precision: str = setting(
        "no", "type of the forward pass where it may differ from the weights'", choices=MIXED_PRECISION
    )
    checkpoint_activations: bool = setting(
        False, "recompute the model's activations in the backward pass: less memory, slower"
    )
    checkpoint_steps: int = setting(
        0,
        "save a checkpoint every so many steps too (at the next change of the weights), not just after each "
        "epoch; 0 does not",
        least=0,
    )

    def __post_init__(self) -> None:
        check_settings(self)
        for name, loss in (("margin", "hinge"), ("temperature", "contrastive")):
            if self.loss not in (None, loss) and getattr(self, name) != getattr(type(self), name):
                raise InputError(f"{name}: the loss {self.loss} has none; it is of {loss}")
        if self.select != "loss":
            _check_measure(self.select)

    def for_method(self, method: str, prompt_alone: bool = False) -> TrainingConfig:
        """The same with loss, temperature and learning rate named: where none were chosen, the former two are
        those of the method's paper; ``prompt_alone``: a soft prompt is all that is trained.
        """
        loss = self.loss or ("contrastive" if method in CONTRASTIVE else "hinge")
        usual = CONTRASTIVE.get(method, 1.0) if loss == "contrastive" else None
        rate = self.learning_rate
        if rate is None:
            rate = SOFT_PROMPT_LEARNING_RATE if prompt_alone else LEARNING_RATE
        return replace(self, loss=loss, temperature=self.temperature or usual, learning_rate=rate)

    def check_development(self, there: bool) -> None:
        """Raises `InputError` if epochs are to be chosen by a measure and no development data are there."""
        if self.select != "loss" and not there:
            raise InputError(f"select: there is no development run to measure {self.select} on")

    def learning_rate_at(self, step: int, steps: int) -> float:
        """The learning rate of a step (from 0) out of ``steps`` planned ones."""
        rate = LEARNING_RATE if self.learning_rate is None else self.learning_rate
        warmup = round(self.warmup * steps)
        if step < warmup:
            return rate * (step + 1) / warmup
        if self.schedule == "linear":
            return rate * max(0.0, (steps - step) / max(1, steps - warmup))
        return rate


def _check_measure(name: Any) -> None:
    try:
        found = [measure.spelling for measure in parse_measures([name])]
    except (InputError, AttributeError) as error:
        raise InputError(f"select: {name!r} is neither 'loss' nor a measure: {error}") from error
    if found != [name]:
        raise InputError(f"select: {name!r} is not one measure but {', '.join(found)}")
