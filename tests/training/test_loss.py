"""The published loss, by hand."""

import pytest
import torch

from qpeft_rerank.training.loss import pairwise_hinge


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
