"""The loss of one training step: all its pairs through the model, each once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from qpeft_rerank.errors import InputError
from qpeft_rerank.models.batch import Batch
from qpeft_rerank.models.scorer import Scorer
from qpeft_rerank.scoring import BatchLimits, Plan, out_of_memory
from qpeft_rerank.training.config import TrainingConfig
from qpeft_rerank.training.groups import StepPairs
from qpeft_rerank.training.loss import compare_pairs


class PairLosses(nn.Module):
    """Negative scores of batches of pairs, in one call, as wrappers for GPUs need it."""

    def __init__(self, scorer: Scorer):
        super().__init__()
        self.scorer = scorer

    def forward(self, batches: Sequence[Batch]) -> Tensor:
        return torch.cat([-self.scorer(batch) for batch in batches])


def step_loss(
    model: nn.Module, scorer: Scorer, step: StepPairs, training: TrainingConfig, limits: BatchLimits
) -> Tensor:
    """The loss of one step; each pair goes through the model once, however many comparisons it serves.

    Args:
        model: `PairLosses` of the scorer, or a wrapper around it.
        scorer: encodes the pairs.
        step: pairs and comparisons.
        training: says how they are compared, see `loss`.
        limits: sizes of the batches that the pairs are cut into.
    """
    plan = Plan(scorer, scorer.encoder.encode(step.pairs), limits)
    parts = plan.all()
    order = torch.tensor([i for part in parts for batch in part.pairs for i in batch])
    batches = [plan.collate(batch, part.prefixes) for part in parts for batch in part.pairs]
    losses = torch.empty(len(order), device=scorer.base.device)
    losses = losses.index_copy(0, order.to(losses.device), model(batches))
    return compare_pairs(losses, step, training)


@contextmanager
def memory_told(batch_size: int) -> Iterator[None]:
    """Where memory runs out within, an `InputError` that says what to do.

    A step cannot be cut smaller by itself: all its pairs are compared with each other.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise InputError(
            f"out of memory in a training step with batch_size {batch_size}: take a smaller batch_size with "
            "accumulate, or checkpoint_activations"
        ) from error


def check_finite(values: Iterable[Tensor], what: str) -> None:
    """Raises `InputError`, which says what to do, unless all numbers are finite; ``what``: their name."""
    if not all(value.isfinite().all() for value in values):
        raise InputError(
            f"{what} is not finite: take a smaller learning_rate, or float32 or bfloat16 where it is float16"
        )
