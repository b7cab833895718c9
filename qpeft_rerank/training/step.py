"""The loss of one training step: all its pairs through the model, each once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from qpeft_rerank.models.batch import Batch
from qpeft_rerank.models.likelihood import QueryLikelihood
from qpeft_rerank.scoring import Plan, default_limits
from qpeft_rerank.training.groups import StepPairs
from qpeft_rerank.training.loss import pairwise_hinge


class PairLosses(nn.Module):
    """Negative mean log-likelihoods of batches of pairs, in one call, as wrappers for GPUs need it."""

    def __init__(self, scorer: QueryLikelihood):
        super().__init__()
        self.scorer = scorer

    def forward(self, batches: Sequence[Batch]) -> Tensor:
        return torch.cat([-self.scorer(batch) for batch in batches])


def step_loss(model: nn.Module, scorer: QueryLikelihood, step: StepPairs, margin: float) -> Tensor:
    """The loss of one step; each pair goes through the model once, however many comparisons it serves."""
    plan = Plan(scorer, scorer.encoder.encode(step.pairs), default_limits(scorer))
    batches, start = [], 0
    while start < len(plan.order):
        indices = plan.batch(start)
        batches.append(plan.collate(indices))
        start += len(indices)
    losses = torch.empty(len(plan.order), device=scorer.base.device)
    losses = losses.index_copy(0, torch.tensor(plan.order, device=losses.device), model(batches))
    return pairwise_hinge(losses[step.positive], losses[step.negative], margin)
