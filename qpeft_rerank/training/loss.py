"""The training losses, over negative scores L of (query, passage) pairs: lower means a better passage.

For query likelihoods L is the negative mean log-likelihood, in nats per token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qpeft_rerank.training.config import TrainingConfig
from qpeft_rerank.training.groups import StepPairs


def compare_pairs(losses: Tensor, step: StepPairs, training: TrainingConfig) -> Tensor:
    """The loss that the settings name.

    Args:
        losses: L of each pair of the step [P].
        step: which pairs are compared.
        training: ``loss``, ``margin``, ``temperature``.
    """
    if training.loss == "contrastive":
        return contrastive(losses, step, training.temperature)
    return pairwise_hinge(losses[step.positive], losses[step.negative], training.margin)


def pairwise_hinge(positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """The published loss: mean of max(0, L_pos - L_neg + margin), plus the mean of L_pos.

    Args:
        positive, negative: L of the positive and of the negative of each (positive, negative) pair, [M] each.
        margin: how much better the positive should be, in nats per token.

    Source: Peng et al., arXiv 2404.04522, section 3.4; `pairwise_v2` of its code.
    """
    return (positive - negative + margin).clamp(min=0).mean() + positive.mean()


def contrastive(losses: Tensor, step: StepPairs, temperature: float) -> Tensor:
    """Mean over topics of -log softmax of the positive's score, -L / temperature, among all of its topic.

    Args:
        losses: L of each pair of the step [P].
        step: a topic's positive is compared with its hard negatives and, if they are there, with the others'.
        temperature: the smaller, the more the nearest negatives count.

    Source: Ma et al., arXiv 2310.08319, equation 4 (RankLLaMA, there with hard negatives alone).
    """
    topics: dict[int, list[int]] = {}
    for positive, negative in zip(step.positive, step.negative, strict=True):
        topics.setdefault(positive, [positive]).append(negative)
    scores = -losses / temperature
    return -torch.stack([scores[places].log_softmax(dim=0)[0] for places in topics.values()]).mean()
