"""How a model learns: what the training loop needs to know of it, and no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from qpeft_rerank.errors import named_pairs
from qpeft_rerank.models.adapter import restore_adapter, save_adapter
from qpeft_rerank.models.base import BaseModel
from qpeft_rerank.models.config import ENCODERS, AdapterConfig
from qpeft_rerank.models.methods import make_scorer
from qpeft_rerank.models.scorer import Scorer
from qpeft_rerank.passages import Passages
from qpeft_rerank.reranker import PairScorer, Reranker
from qpeft_rerank.scoring import default_limits
from qpeft_rerank.training.config import TrainingConfig
from qpeft_rerank.training.groups import Group, step_pairs
from qpeft_rerank.training.step import PairLosses, step_loss


class Objective(Protocol):
    """A model, its loss on some training examples, and the folder that it is kept in.

    Attributes:
        scorer: what is trained; it has ``base``, ``lora``, ``config.to_dict()``, ``train(mode)`` and
            ``trained_parameters()``, as `models.scorer.Scorer`.
        module: what runs the model in a step. The loop may wrap it (several GPUs), and so gives it back.
    """

    scorer: Any
    module: nn.Module

    def loss(self, module: nn.Module, examples: Sequence[Any]) -> Tensor:
        """The mean loss of a step's examples, a scalar; all of the model is run through ``module``."""
        ...

    def save(self, folder: Path, card: Mapping[str, Any]) -> None:
        """Keep the trained weights in ``folder``; ``card``: what to say of the training."""
        ...

    def restore(self, folder: Path) -> None:
        """Take back the weights that `save` kept there."""
        ...


class RerankingObjective(Objective, Protocol):
    """One of a model that can rerank development topics."""

    def pair_scorer(self) -> PairScorer:
        """The model as it is now."""
        ...


def make_objective(
    base: BaseModel, settings: AdapterConfig, passages: Passages, training: TrainingConfig
) -> RerankingObjective:
    """How ``settings.method`` learns from groups of a topic and passages, with a fresh trained part."""
    if settings.method in ENCODERS:
        from qpeft_rerank.dense.repllama import RepLlamaObjective

        return RepLlamaObjective(base, settings, passages, training)
    return PairObjective(make_scorer(base, settings), passages, training)


class PairObjective:
    """Scores of (query, passage) pairs, compared within a step (see `loss`)."""

    def __init__(self, scorer: Scorer, passages: Passages, training: TrainingConfig):
        self.scorer, self.passages, self.training = scorer, passages, training
        self.module = PairLosses(scorer)
        self.limits = default_limits(scorer.base)

    def loss(self, module: nn.Module, examples: Sequence[Group]) -> Tensor:
        pairs = step_pairs(examples, self.passages, self.training.in_batch)
        with named_pairs(pairs.names):
            return step_loss(module, self.scorer, pairs, self.training, self.limits)

    def pair_scorer(self) -> Reranker:
        return Reranker(self.scorer)

    def save(self, folder: Path, card: Mapping[str, Any]) -> None:
        save_adapter(folder, self.scorer, card)

    def restore(self, folder: Path) -> None:
        restore_adapter(folder, self.scorer)
