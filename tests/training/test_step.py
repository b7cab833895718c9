"""A training step: each pair once, the same loss however it is batched, accumulated or recomputed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_training import PASSAGES, QRELS, RUN, TOPICS, changed, run
from tiny_models import tiny_base, tiny_scorer

from qpeft_rerank.models.adapter import WEIGHTS_FILE
from qpeft_rerank.models.base import BaseModel
from qpeft_rerank.models.batch import Batch
from qpeft_rerank.reranker import Reranker
from qpeft_rerank.scoring import BatchLimits, default_limits
from qpeft_rerank.training.config import TrainingConfig
from qpeft_rerank.training.data import TrainingData
from qpeft_rerank.training.groups import epoch_groups, step_pairs, training_topics
from qpeft_rerank.training.step import PairLosses, step_loss


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return tiny_base()


def pairs_of_a_step(in_batch: bool = True, groups: int = 3) -> Any:
    topics = training_topics(RUN, TOPICS, QRELS, 0, 0, 100)
    return step_pairs(epoch_groups(topics, 1, 0, 1)[:groups], PASSAGES, in_batch)


def test_each_pair_is_run_once_per_step(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = tiny_scorer(base, "qpeft-a", prompt="hints")
    seen: list[int] = []
    forward = scorer.forward

    def counting(batch: Batch) -> torch.Tensor:
        seen.append(len(batch.ids))
        return forward(batch)

    monkeypatch.setattr(scorer, "forward", counting)
    step = pairs_of_a_step()
    assert scorer.can_share  # tried once, on texts of its own
    seen.clear()
    step_loss(PairLosses(scorer), scorer, step, TrainingConfig(), default_limits(scorer.base))
    assert sum(seen) == len(step.pairs) < len(step.negative) * 2


def test_the_loss_of_a_step_is_that_of_its_comparisons_however_it_is_batched(base: BaseModel) -> None:
    scorer = tiny_scorer(base, "qpeft-r", prompt="hints")
    step = pairs_of_a_step()
    losses = [-float(s) for s in Reranker(scorer).score(step.pairs)]
    hinge = [max(0.0, losses[p] - losses[n] + 0.5) for p, n in zip(step.positive, step.negative, strict=True)]
    expected = sum(hinge) / len(hinge) + sum(losses[p] for p in step.positive) / len(hinge)
    for tokens in (8192, 60):
        loss = step_loss(PairLosses(scorer), scorer, step, TrainingConfig(margin=0.5), BatchLimits(tokens))
        assert loss.item() == pytest.approx(expected, abs=1e-4)


def test_accumulated_steps_equal_one_larger_step(base: BaseModel, tmp_path: Path) -> None:
    found = []
    for batch_size, accumulate in ((1, 4), (4, 1), (2, 2)):
        output = tmp_path / str(batch_size)
        training = TrainingConfig(
            epochs=2, batch_size=batch_size, accumulate=accumulate, in_batch=False, learning_rate=0.01, clip=0
        )
        run(
            base,
            output,
            training,
            dev=None,
            data=TrainingData(RUN[:4], TOPICS, QRELS),
            settings={"attention_dropout": 0.0},
        )
        found.append(load_file(output / WEIGHTS_FILE)["hints.mlp.2.weight"])
    assert torch.allclose(found[0], found[1], atol=1e-4) and torch.allclose(found[2], found[1], atol=1e-4)


def test_every_epoch_begins_a_new_accumulation(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates: list[int] = []
    step_of = TrainingConfig.learning_rate_at
    monkeypatch.setattr(
        TrainingConfig,
        "learning_rate_at",
        lambda self, step, steps: (updates.append(step + 1), step_of(self, step, steps))[1],
    )
    run(base, tmp_path / "adapter", changed(epochs=2, accumulate=2), dev=None)  # three steps per epoch
    assert updates == [2, 3, 5, 6]


def test_activations_are_recomputed_in_the_backward_pass_with_the_same_result(tmp_path: Path) -> None:
    weights, calls = [], []
    for again in (False, True):
        base = tiny_base()
        count = [0]
        base.model.model.layers[0].mlp.register_forward_pre_hook(
            lambda *_, count=count: count.__setitem__(0, count[0] + 1)
        )
        run(
            base,
            tmp_path / str(again),
            changed(epochs=1, checkpoint_activations=again),
            dev=None,
            method="soft-prompt",
        )
        weights.append(load_file(tmp_path / str(again) / WEIGHTS_FILE)["prompt.embedding"])
        calls.append(count[0])
    assert torch.allclose(weights[0], weights[1], atol=1e-4)
    assert calls[1] == 6, "three steps, each forward and again"
    assert not any("forward" in vars(layer) for layer in base.model.model.layers), "as it was before"
    run(base, tmp_path / "after", changed(epochs=1), dev=None, method="soft-prompt")
