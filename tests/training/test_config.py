"""Training settings are checked as soon as they are made."""

from typing import Any

import pytest

from qpeft_rerank.errors import InputError
from qpeft_rerank.models.config import AdapterConfig
from qpeft_rerank.training.config import MOST_SEED, TrainingConfig
from qpeft_rerank.training.loop import _seed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("train_topics", -1),
        ("seed", -1),
        ("seed", 2**32),
        ("batch_size", 0),
        ("accumulate", 0),
        ("negatives", 0),
        ("margin", -0.1),
        ("epochs", 0),
        ("patience", 0),
        ("learning_rate", -1.0),
        ("warmup", 1.0),
        ("schedule", "cosine"),
        ("mixed_precision", "fp8"),
        ("batch_size", "many"),
        ("learning_rate", float("nan")),
        ("select", "ndgc"),
        ("select", "nDCG@10 RR@10"),
        ("select", "P"),
        ("select", ""),
        ("select", None),
        ("loss", "mean"),
        ("temperature", 0.0),
    ],
)
def test_an_impossible_value_is_an_error_that_names_the_setting(name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"^{name}: "):
        TrainingConfig(**{name: value})


def test_the_seed_of_each_step_fits_into_torch_whatever_the_seed() -> None:
    assert 0 <= _seed(TrainingConfig(seed=MOST_SEED).seed, 10**12, 10**6) < 2**63


@pytest.mark.parametrize("measure", ["loss", "nDCG@10", "recip_rank", "ndcg_cut.10"])
def test_epochs_are_chosen_by_the_loss_or_one_measure(measure: str) -> None:
    assert TrainingConfig(select=measure).select == measure


def test_the_learning_rate_rises_then_stays_or_falls() -> None:
    constant = TrainingConfig(learning_rate=1.0, warmup=0.4)
    assert [constant.learning_rate_at(step, 10) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    linear = TrainingConfig(learning_rate=1.0, schedule="linear")
    assert [linear.learning_rate_at(step, 4) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]


def test_a_method_has_its_own_loss_unless_another_is_chosen() -> None:
    assert TrainingConfig().for_method("qpeft-a").loss == "hinge"
    assert TrainingConfig().for_method("rankllama").loss == "contrastive"
    assert TrainingConfig(loss="hinge").for_method("rankllama").loss == "hinge"


def test_a_soft_prompt_by_itself_has_a_higher_learning_rate_unless_another_is_chosen() -> None:
    def rate(chosen: float | None = None, **settings: Any) -> float | None:
        adapter = AdapterConfig(**settings)
        training = TrainingConfig(learning_rate=chosen)
        return training.for_method(adapter.method, adapter.prompt_alone).learning_rate

    assert rate(method="soft-prompt") == rate(method="hard-prompt", soft_prompt=True) == 0.03
    assert rate(method="soft-prompt", lora_rank=16) == rate(method="soft-prompt", prompt_layers=1) == 0.001
    assert rate(method="qpeft-a") == rate(method="qpeft-a", soft_prompt=True) == 0.001
    assert rate(0.0, method="soft-prompt") == 0.0


def test_a_setting_of_another_loss_is_an_error() -> None:
    with pytest.raises(InputError, match="^margin: the loss contrastive has none"):
        TrainingConfig(loss="contrastive", margin=0.5)
    with pytest.raises(InputError, match="^temperature: the loss hinge has none"):
        TrainingConfig(temperature=0.5).for_method("qpeft-a")
