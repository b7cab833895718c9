"""The loop trains a LoRA, a RankLLaMA, with either loss, and any other model that says how it learns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_training import QRELS, RUN, TOPICS, Killed, changed, run
from tiny_models import tiny_base
from torch import Tensor, nn

from qpeft_rerank.errors import InputError, PairError
from qpeft_rerank.models.adapter import load_adapter
from qpeft_rerank.models.base import BaseModel
from qpeft_rerank.training.checkpoint import has_checkpoint, load_state
from qpeft_rerank.training.config import TrainingConfig
from qpeft_rerank.training.data import TrainingData
from qpeft_rerank.training.loop import Listener, fit

LORA = {"lora_rank": 4}
RANKLLAMA = {"prompt": None, "k": 15, "passage_tokens": 30, **LORA}


@pytest.fixture
def base() -> BaseModel:
    return tiny_base()


@pytest.mark.parametrize(
    ("method", "settings"), [("hard-prompt", LORA), ("qpeft-a", LORA), ("rankllama", RANKLLAMA)]
)
def test_a_lora_is_trained_and_kept(
    method: str, settings: dict[str, Any], base: BaseModel, tmp_path: Path
) -> None:
    before = base.weight_fingerprint()
    training = changed(epochs=4, learning_rate=5e-3, select="nDCG@10")
    record = run(base, tmp_path / "adapter", training, method=method, settings=settings)
    losses = [epoch["train_loss"] for epoch in record["epochs"][1:]]
    assert losses[-1] < 0.95 * losses[0]
    assert record["settings"]["training"]["loss"] == ("contrastive" if method == "rankllama" else "hinge")
    assert torch.equal(base.weight_fingerprint(), before)
    weights = load_file(tmp_path / "adapter" / "lora" / "adapter_model.safetensors")
    if record["best_epoch"] > 0:
        assert all(weight.abs().sum() > 0 for name, weight in weights.items() if "lora_B" in name)
    best = load_adapter(tmp_path / "adapter", base)
    assert record["trained_parameters"] == sum(p.numel() for p in best.trained_parameters().values())
    assert record["dev"]["nDCG@10"] == pytest.approx(max(e["dev"]["nDCG@10"] for e in record["epochs"]))


@pytest.mark.parametrize(("method", "settings"), [("qpeft-a", LORA), ("rankllama", RANKLLAMA)])
def test_a_killed_training_of_a_lora_ends_as_an_undisturbed_one(
    method: str, settings: dict[str, Any], base: BaseModel, tmp_path: Path
) -> None:
    def kill(step: int, steps: int, loss: float) -> None:
        if step == 5:
            raise Killed

    options: dict[str, Any] = {
        "training": changed(checkpoint_steps=1, epochs=2),
        "method": method,
        "settings": {**settings, "lora_dropout": 0.3},
    }
    expected = run(base, tmp_path / "undisturbed", **options)
    with pytest.raises(Killed):
        run(base, tmp_path / "killed", **options, listener=Listener(on_step=kill))
    record = run(base, tmp_path / "killed", **options, resume=True)
    assert record["epochs"] == expected["epochs"]
    for file in ("adapter_model.safetensors", "lora/adapter_model.safetensors"):
        ours, theirs = (load_file(tmp_path / folder / file) for folder in ("killed", "undisturbed"))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_lora_is_at_work_when_activations_are_computed_again(tmp_path: Path) -> None:
    weights = []
    for again in (False, True):
        training = changed(epochs=1, checkpoint_activations=again)
        settings = {**LORA, "lora_dropout": 0.0}
        run(tiny_base(), tmp_path / str(again), training, dev=None, method="hard-prompt", settings=settings)
        weights.append(load_file(tmp_path / str(again) / "lora" / "adapter_model.safetensors"))
    for name, weight in weights[0].items():
        assert torch.allclose(weight, weights[1][name], atol=1e-4), name


def test_a_likelihood_method_may_learn_by_contrast(base: BaseModel, tmp_path: Path) -> None:
    training = changed(epochs=4, loss="contrastive", temperature=0.2, negatives=2)
    record = run(base, tmp_path / "adapter", training)
    assert min(e["dev_loss"] for e in record["epochs"]) < record["epochs"][0]["dev_loss"]
    assert "loss: contrastive, temperature 0.2" in (tmp_path / "adapter" / "README.md").read_text()


class Line(nn.Module):
    """y = a x, of no language model at all."""

    config = SimpleNamespace(method="line", to_dict=lambda: {"method": "line"})
    lora = None

    def __init__(self, base: BaseModel):
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(1))
        self._base = (base,)

    @property
    def base(self) -> BaseModel:
        return self._base[0]

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.named_parameters())

    def forward(self, x: Tensor) -> Tensor:
        return self.slope * x


class LineObjective:
    """Examples are numbers x; y should be 3 x."""

    def __init__(self, base: BaseModel):
        self.scorer = self.module = Line(base)
        self.saved = torch.zeros(1)

    def loss(self, module: nn.Module, examples: Sequence[float]) -> Tensor:
        x = torch.tensor(examples)
        return (module(x) - 3 * x).square().mean()

    def save(self, folder: Path, card: Mapping[str, Any]) -> None:
        self.saved = self.scorer.slope.detach().clone()

    def restore(self, folder: Path) -> None:
        self.scorer.slope.data = self.saved


class Held:
    """Development by the loss on a number, and the epochs' losses made to rise after the third."""

    def __init__(self) -> None:
        self.epoch = -1

    def loss(self, objective: Any) -> float:
        self.epoch += 1
        return objective.loss(objective.module, [1.0]).item() + 100.0 * (self.epoch > 3)

    def measure(self, objective: Any) -> dict[str, float]:
        raise AssertionError("epochs are chosen by the loss")

    def write(self, objective: Any, output: Path) -> dict[str, float]:
        return {"slope": objective.scorer.slope.item()}


def test_the_loop_trains_whatever_says_how_it_learns(base: BaseModel, tmp_path: Path) -> None:
    training = TrainingConfig(epochs=20, batch_size=2, learning_rate=0.3, patience=2)
    objective = LineObjective(base)
    seen: list[int] = []

    def examples(epoch: int) -> list[float]:
        seen.append(epoch)
        return [1.0, 2.0, -1.0]

    record = fit(objective, training, examples, tmp_path, Held(), chosen={"corpus": "numbers"})
    assert record["best_epoch"] == 3 and [e["epoch"] for e in record["epochs"]] == [0, 1, 2, 3, 4, 5]
    assert record["dev"] == {"slope": pytest.approx(objective.saved.item())} and objective.saved.item() > 1.5
    assert record["settings"]["corpus"] == "numbers" and set(seen) == {1, 2, 3, 4, 5}
    assert (tmp_path / "training.png").exists()


class Undefined(LineObjective):
    """Its gradient is not finite, though the loss is: that of a root at 0."""

    def loss(self, module: nn.Module, examples: Sequence[float]) -> Tensor:
        return module(torch.tensor(examples)).abs().sqrt().mean()


class Unmeasured(Held):
    """Its loss of the third epoch is not finite."""

    def loss(self, objective: Any) -> float:
        return super().loss(objective) if self.epoch < 2 else float("nan")


@pytest.mark.parametrize(
    ("objective", "dev", "changes", "what", "kept"),
    [
        (LineObjective, None, {"learning_rate": 1e30}, "the loss of step 2", 1),
        (Undefined, None, {"epochs": 1}, "a weight after step 1", None),
        (LineObjective, Unmeasured, {}, "the development loss of epoch 3", 5),
    ],
)
def test_a_training_that_diverges_is_an_error_and_the_last_good_checkpoint_stays(
    objective: type,
    dev: type | None,
    changes: dict[str, Any],
    what: str,
    kept: int | None,
    base: BaseModel,
    tmp_path: Path,
) -> None:
    training = TrainingConfig(**{"epochs": 4, "batch_size": 1, "clip": 0, "checkpoint_steps": 1, **changes})
    with pytest.raises(InputError, match=f"{what} is not finite: take a smaller learning_rate"):
        fit(objective(base), training, lambda epoch: [1.0, 2.0], tmp_path, dev and dev())
    assert not (tmp_path / "training.json").exists()
    assert kept is None or load_state(tmp_path / "checkpoint")["step"] == kept
    assert has_checkpoint(tmp_path / "checkpoint") == (kept is not None)


def test_an_update_is_of_the_mean_of_its_steps_however_many_there_are(
    base: BaseModel, tmp_path: Path
) -> None:
    objective, gradients = LineObjective(base), []
    objective.scorer.slope.register_hook(lambda gradient: gradients.append(gradient.item()))
    training = TrainingConfig(epochs=2, batch_size=1, accumulate=2, learning_rate=0.0)
    record = fit(objective, training, lambda epoch: [1.0, 1.0, 1.0], tmp_path)
    assert gradients == [-3, -3, -6] * 2  # of (y - 3 x)^2 at y = 0: the third step is an update by itself
    assert [epoch["train_loss"] for epoch in record["epochs"]] == [None, 9, 9]


def test_a_checkpoint_does_not_grow_with_the_steps(base: BaseModel, tmp_path: Path) -> None:
    sizes: list[int] = []

    def measure(step: int, steps: int, loss: float) -> None:
        if has_checkpoint(tmp_path / "checkpoint"):
            sizes.append(len(json.dumps({**load_state(tmp_path / "checkpoint"), "step": 0})))

    training = TrainingConfig(epochs=1, batch_size=1, checkpoint_steps=1, learning_rate=0.0)
    fit(LineObjective(base), training, lambda epoch: [1.0] * 40, tmp_path, listener=Listener(on_step=measure))
    assert len(sizes) == 39 and sizes[-1] < sizes[0] + 20


def test_a_pair_that_does_not_fit_is_named(base: BaseModel, tmp_path: Path) -> None:
    topics = {**TOPICS, "3": "far " * 2000}
    data = TrainingData(RUN[:5], topics, QRELS)
    with pytest.raises(PairError, match="topic '3', passage 'd[0-9]+' .*the query is too long"):
        run(base, tmp_path / "adapter", data=data, dev=None)


def test_what_is_chosen_beside_the_settings_must_be_the_same_on_resuming(
    base: BaseModel, tmp_path: Path
) -> None:
    def kill(facts: Mapping[str, Any]) -> None:
        if facts["epoch"] == 1:
            raise Killed

    def train(**options: Any) -> None:
        training = TrainingConfig(epochs=2, checkpoint_steps=1, batch_size=1)
        fit(LineObjective(base), training, lambda epoch: [1.0, 2.0], tmp_path, **options)

    with pytest.raises(Killed):
        train(listener=Listener(on_epoch=kill))
    with pytest.raises(InputError, match="cannot resume: corpus"):
        train(chosen={"corpus": "other"})
