"""The training losses, over negative mean log-likelihoods L of (query, passage) pairs: lower means a better
passage.
"""

from __future__ import annotations

from torch import Tensor


def pairwise_hinge(positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """The published loss: mean of max(0, L_pos - L_neg + margin), plus the mean of L_pos.

    Args:
        positive, negative: L of the positive and of the negative of each (positive, negative) pair, [M] each.
        margin: how much better the positive should be, in nats per token.

    Source: Peng et al., arXiv 2404.04522, section 3.4; `pairwise_v2` of its code.
    """
    return (positive - negative + margin).clamp(min=0).mean() + positive.mean()
