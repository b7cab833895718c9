"""On a device that is not the CPU, scores and a training step's gradients wait for nothing."""

from __future__ import annotations

import pytest
import torch
from other_device import DEVICE, on_other_device
from small_training import PASSAGES, QRELS, RUN, TOPICS
from tiny_models import ARCHITECTURES, TEXTS, metaspace_tokenizer, tiny_base, tiny_scorer
from torch._subclasses.fake_tensor import DataDependentOutputException

from qpeft_rerank.models.batch import Batch, Prefixes, collate
from qpeft_rerank.models.config import METHODS, AdapterConfig
from qpeft_rerank.models.scorer import Scorer
from qpeft_rerank.passages import Passage
from qpeft_rerank.training.config import TrainingConfig
from qpeft_rerank.training.groups import epoch_groups, training_topics
from qpeft_rerank.training.objective import make_objective

PAIRS = [
    (query, Passage("d", "a title", text))
    for text in TEXTS[:3]
    for query in ("how far", "which roads lead to the sea")
]
SETTINGS = [
    *({"method": method} for method in METHODS if method != "repllama"),
    {"method": "qpeft-r", "placement": "prefix"},
    {"method": "qpeft-r", "similarity": "dot", "hint_table": "frozen"},
    {"method": "qpeft-a", "soft_prompt": True, "lora_rank": 2},
    {"method": "qpeft-a", "layout": "published"},
]


def run_there(scorer: Scorer) -> None:
    """Scores, with a part of the prompt or passages run once where they can be."""
    inputs = scorer.encoder.encode(PAIRS)
    go_on, share = scorer.can_go_on, scorer.can_share

    def batch(prefixes: Prefixes | None = None) -> Batch:
        return collate(inputs, scorer.encoder.pad, prefixes).to(DEVICE)

    with on_other_device(scorer):
        with torch.inference_mode():
            scores = [scorer(batch())]
            if go_on:
                scores.append(scorer(batch(Prefixes.common(inputs[0].before[:3]).to(DEVICE))))
            if share:
                scores.append(scorer(batch(Prefixes.of(inputs).to(DEVICE))))
        for one in scores:
            assert one.device == DEVICE and one.shape == (len(PAIRS),)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(map(str, settings.values())))
def test_every_method_scores_on_another_device(settings: dict[str, object]) -> None:
    published = settings.get("layout") == "published"
    run_there(tiny_scorer(tiny_base(tokenizer=metaspace_tokenizer() if published else None), **settings))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_scores_on_another_device(architecture: str) -> None:
    run_there(tiny_scorer(tiny_base(architecture), "qpeft-a"))


@pytest.mark.parametrize("loss", ["hinge", "contrastive"])
@pytest.mark.parametrize("method", ["soft-prompt", "qpeft-r", "qpeft-a", "rankllama", "repllama"])
def test_a_training_step_runs_on_another_device(method: str, loss: str) -> None:
    training = TrainingConfig(loss=loss, batch_size=2).for_method(method)
    objective = make_objective(tiny_base(), AdapterConfig(method=method), PASSAGES, training)
    topics = training_topics(RUN, TOPICS, QRELS, limit=0, seed=0, depth=100)
    groups = epoch_groups(topics, training.negatives, seed=0, epoch=1)[:2]
    getattr(objective.scorer, "can_share", None)  # tried out beforehand, with numbers
    with on_other_device(objective.module):
        objective.scorer.train()
        objective.loss(objective.module, groups).backward()
        for name, parameter in objective.scorer.trained_parameters().items():
            assert parameter.grad is not None and parameter.grad.device == DEVICE, name


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (lambda scores: scores + torch.ones(len(PAIRS)), RuntimeError),
        (lambda scores: scores[: int(scores.sum())], DataDependentOutputException),
    ],
    ids=["a tensor on the CPU", "waiting for a number"],
)
def test_what_would_fail_or_wait_on_a_gpu_is_found(fault, error: type[Exception]) -> None:
    scorer = tiny_scorer(tiny_base(), "qpeft-r")
    forward = scorer.forward
    scorer.forward = lambda batch: fault(forward(batch))
    with pytest.raises(error):
        run_there(scorer)
