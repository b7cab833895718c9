"""The losses, by hand."""

import pytest
import torch
from torch.nn import functional as F

from qpeft_rerank.training.config import TrainingConfig
from qpeft_rerank.training.groups import StepPairs
from qpeft_rerank.training.loss import compare_pairs, contrastive, pairwise_hinge

# Two topics: pairs 0 to 2 (two negatives), pairs 3 and 4 (one).
STEP = StepPairs([], positive=[0, 0, 3], negative=[1, 2, 4])
LOSSES = torch.tensor([1.0, 2.0, 1.5, -3.0, -1.0])


@pytest.mark.parametrize(
    ("positive", "negative", "margin", "expected"),
    [
        ([1.0], [3.0], 0.0, 1.0),  # far enough apart: only the positive's own loss is left
        ([1.0], [3.0], 2.5, 0.5 + 1.0),
        ([2.0, 1.0], [1.0, 1.0], 0.0, (1.0 + 0.0) / 2 + 1.5),
        ([2.0, 1.0], [1.0, 4.0], 0.5, (1.5 + 0.0) / 2 + 1.5),
    ],
)
def test_mean_hinge_plus_mean_positive(
    positive: list[float], negative: list[float], margin: float, expected: float
) -> None:
    assert pairwise_hinge(torch.tensor(positive), torch.tensor(negative), margin).item() == pytest.approx(
        expected
    )


def test_a_positive_is_pulled_down_and_a_negative_only_pushed_up_while_it_is_near() -> None:
    positive, negative = (
        torch.tensor([1.0, 1.0], requires_grad=True),
        torch.tensor([1.2, 9.0], requires_grad=True),
    )
    pairwise_hinge(positive, negative, 0.5).backward()
    assert positive.grad.tolist() == [1.0, 0.5] and negative.grad.tolist() == [-0.5, 0.0]


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_contrastive_is_the_cross_entropy_of_the_positive_within_its_topic(temperature: float) -> None:
    scores = -LOSSES / temperature
    first = F.cross_entropy(scores[None, :3], torch.tensor([0]))
    second = F.cross_entropy(scores[None, 3:], torch.tensor([0]))
    assert contrastive(LOSSES, STEP, temperature).item() == pytest.approx((first + second).item() / 2)


def test_the_settings_name_the_loss() -> None:
    hinge = compare_pairs(LOSSES, STEP, TrainingConfig(loss="hinge", margin=0.5))
    assert hinge.item() == pytest.approx(pairwise_hinge(LOSSES[[0, 0, 3]], LOSSES[[1, 2, 4]], 0.5).item())
    found = compare_pairs(LOSSES, STEP, TrainingConfig(loss="contrastive", temperature=0.5))
    assert found.item() == pytest.approx(contrastive(LOSSES, STEP, 0.5).item())
