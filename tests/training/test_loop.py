"""Training: it learns, it keeps the best epoch, and after a kill it goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_training import DEV, PASSAGES, QRELS, RUN, TOPICS, Killed, changed, run
from tiny_models import tiny_base

from qpeft_rerank.errors import InputError
from qpeft_rerank.evaluation import evaluate
from qpeft_rerank.fusion import FusionConfig, fuse
from qpeft_rerank.models.adapter import WEIGHTS_FILE, load_adapter
from qpeft_rerank.models.base import BaseModel
from qpeft_rerank.models.config import AdapterConfig
from qpeft_rerank.models.likelihood import QueryLikelihood
from qpeft_rerank.reranker import Reranker
from qpeft_rerank.reranking import rerank
from qpeft_rerank.training import objective
from qpeft_rerank.training.data import TrainingData
from qpeft_rerank.training.loop import Listener
from qpeft_rerank.training.step import PairLosses
from qpeft_rerank.trec import load_run


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return tiny_base()


def test_a_variable_of_accelerates_does_not_scale_the_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_base()
    plain = run(base, tmp_path / "plain")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    assert run(base, tmp_path / "told")["epochs"] == plain["epochs"]


def test_a_training_learns_and_leaves_a_whole_folder(base: BaseModel, tmp_path: Path) -> None:
    record = run(base, tmp_path / "adapter", changed(epochs=6))
    losses = [epoch["train_loss"] for epoch in record["epochs"]]
    assert losses[0] is None and losses[-1] < 0.9 * losses[1]
    assert min(e["dev_loss"] for e in record["epochs"]) < 0.9 * record["epochs"][0]["dev_loss"]
    assert sorted(f.name for f in (tmp_path / "adapter").iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "run.dev.txt",
        "training.json",
        "training.png",
    ]
    assert json.loads((tmp_path / "adapter" / "training.json").read_text()) == json.loads(json.dumps(record))
    assert (
        record["settings"]["training"]["epochs"] == 6
        and record["packages"]["torch"]
        and record["trained_parameters"] > 0
    )


def test_the_folder_holds_the_best_epoch_and_its_development_run(base: BaseModel, tmp_path: Path) -> None:
    for select in ("loss", "nDCG@10", "recip_rank"):
        output = tmp_path / select
        record = run(base, output, changed(select=select, learning_rate=0.03, epochs=4))
        values = [-e["dev_loss"] if select == "loss" else e["dev"][select] for e in record["epochs"]]
        assert record["best_epoch"] == values.index(max(values)), "the first of the best"
        best = load_adapter(output, base)
        expected = {r.qid: r for r in rerank(DEV.run, TOPICS, PASSAGES, Reranker(best), weight=1.0)}
        written = load_run(output / "run.dev.txt")
        assert {q: [d.docid for d in r.docs] for q, r in written.items()} == {
            q: [d.docid for d in r.docs] for q, r in expected.items()
        }
        measured = evaluate(output / "run.dev.txt", {q: QRELS[q] for q in expected}, ["nDCG@10"]).means[
            "nDCG@10"
        ]
        assert measured == pytest.approx(record["dev"]["nDCG@10"])
        if select == "nDCG@10":
            assert measured == pytest.approx(max(values))


def test_the_weight_beside_the_first_stage_is_the_best_one_on_the_development_run(
    base: BaseModel, tmp_path: Path
) -> None:
    output = tmp_path / "adapter"
    record = run(base, output, changed(epochs=1))
    scored, weight = load_run(output / "run.dev.txt"), record["dev"]["weight"]
    first = {ranking.qid: ranking for ranking in DEV.run if ranking.qid in scored}
    qrels = {qid: QRELS[qid] for qid in scored}

    def value(share: float) -> float:
        fusion = FusionConfig("interpolation", "z-score", weights=(1 - share, share))
        return evaluate(fuse([first.values(), scored.values()], fusion), qrels, ["nDCG@10"]).means["nDCG@10"]

    assert record["dev"]["nDCG@10 with weight"] == pytest.approx(value(weight))
    assert value(weight) >= max(value(share) for share in (0, 0.25, 0.5, 0.75, 1)) - 1e-9
    assert load_adapter(output, base).weight == weight == Reranker(load_adapter(output, base)).weight


def test_training_stops_when_patience_is_over(base: BaseModel, tmp_path: Path) -> None:
    record = run(base, tmp_path / "adapter", changed(learning_rate=0.0, epochs=9, patience=2))
    assert record["best_epoch"] == 0 and [e["epoch"] for e in record["epochs"]] == [0, 1, 2], (
        "nothing gets better"
    )


def test_without_development_data_the_last_epoch_is_kept(base: BaseModel, tmp_path: Path) -> None:
    record = run(base, tmp_path / "adapter", changed(epochs=2), dev=None)
    assert record["best_epoch"] == 2 and not (tmp_path / "adapter" / "run.dev.txt").exists()
    assert load_adapter(tmp_path / "adapter", base).config.method == "qpeft-a"


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("soft-prompt", {"prompt_layers": 1}),
        ("qpeft-r", {"hint_table": "frozen"}),
        ("vocab", {}),
        ("token", {}),
        ("random", {}),
        ("qpeft-r", {"soft_prompt": True, "placement": "prefix"}),
    ],
)
def test_every_method_trains(method: str, settings: dict[str, Any], base: BaseModel, tmp_path: Path) -> None:
    before = tiny_base().weight_fingerprint()
    run(base, tmp_path / "adapter", changed(epochs=1), dev=None, method=method, settings=settings)
    start = QueryLikelihood(base, AdapterConfig(method=method, prompt="hints", k=2, **settings))
    trained = load_file(tmp_path / "adapter" / WEIGHTS_FILE)
    assert set(start.trained_parameters()) == set(trained) - {"base_model.fingerprint"}
    assert ("hints.table.embedding" in trained) == (
        start.hints is not None and start.config.hint_table == "trained"
    )
    for name in ("prompt.embedding", "hints.table.embedding"):
        if name in trained:
            assert not torch.equal(start.trained_parameters()[name], trained[name]), f"{name} was trained"
    assert torch.equal(base.weight_fingerprint(), before)


KILLS = {"in the first epoch": 2, "between two updates": 5, "in a later epoch": 7, "at an epoch's end": 6}


@pytest.fixture(scope="module")
def undisturbed(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    output = tmp_path_factory.mktemp("undisturbed") / "adapter"
    return run(base, output, CAREFUL, settings=DROPOUT), output


CAREFUL = changed(accumulate=2, checkpoint_steps=1, batch_size=2, warmup=0.2, schedule="linear")
DROPOUT = {"attention_dropout": 0.3}


@pytest.mark.parametrize("moment", KILLS)
def test_a_killed_training_ends_as_an_undisturbed_one(
    moment: str, base: BaseModel, undisturbed: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    def kill(step: int, steps: int, loss: float) -> None:
        if step == KILLS[moment]:
            raise Killed

    output, resumed_at = tmp_path / "adapter", []
    with pytest.raises(Killed):
        run(base, output, CAREFUL, settings=DROPOUT, listener=Listener(on_step=kill))
    with pytest.raises(InputError, match=r"resume it \(--resume\)"):
        run(base, output, CAREFUL, settings=DROPOUT, listener=Listener(on_step=kill))
    record = run(
        base, output, CAREFUL, settings=DROPOUT, resume=True, listener=Listener(on_resume=resumed_at.append)
    )
    expected, folder = undisturbed
    assert record["epochs"] == expected["epochs"] and record["best_epoch"] == expected["best_epoch"]
    ours, theirs = load_file(output / WEIGHTS_FILE), load_file(folder / WEIGHTS_FILE)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (output / "run.dev.txt").read_bytes() == (folder / "run.dev.txt").read_bytes()
    assert resumed_at == ([] if moment == "in the first epoch" else [{5: 3, 6: 5, 7: 6}[KILLS[moment]]])
    assert not (output / "checkpoint").exists()


def test_a_training_is_resumed_under_its_own_settings_only(base: BaseModel, tmp_path: Path) -> None:
    def kill(facts: Any) -> None:
        if facts["epoch"] == 2:
            raise Killed

    output = tmp_path / "adapter"
    with pytest.raises(Killed):
        run(base, output, listener=Listener(on_epoch=kill))
    for changes, what in (
        ({"training": changed(learning_rate=1.0)}, "training.learning_rate"),
        ({"method": "qpeft-r"}, "adapter"),
        ({"sources": {"run": "other.txt"}}, "sources.run"),
        ({"base": replace(base, revision="v2")}, "base_model.revision"),
        ({"base": replace(base, lora="a-lora")}, "base_model.lora"),
        ({"base": replace(base, model=deepcopy(base.model).to(torch.bfloat16))}, "base_model.dtype"),
        ({"data": TrainingData(RUN[:4], TOPICS, QRELS)}, "topics"),
        ({"depth": 3}, "depth"),
        ({"dev": None}, "development_topics"),
    ):
        with pytest.raises(InputError, match=f"cannot resume: {what}"):
            run(**{"base": base, "output": output, "resume": True, **changes})
    run(base, output, resume=True)


def test_a_finished_training_is_not_overwritten(base: BaseModel, tmp_path: Path) -> None:
    run(base, tmp_path / "adapter", changed(epochs=1), dev=None)
    before = {f.name: f.read_bytes() for f in (tmp_path / "adapter").iterdir()}
    for resume in (False, True):
        with pytest.raises(InputError, match="finished training"):
            run(base, tmp_path / "adapter", changed(epochs=1), dev=None, resume=resume)
    with pytest.raises(InputError, match="cannot resume: training.epochs differs .* the finished training"):
        run(base, tmp_path / "adapter", changed(epochs=2), dev=None, resume=True)
    assert {f.name: f.read_bytes() for f in (tmp_path / "adapter").iterdir()} == before


def test_what_a_kill_left_beside_the_checkpoint_goes_at_the_end(base: BaseModel, tmp_path: Path) -> None:
    def kill(facts: Any) -> None:
        if facts["epoch"] == 1:
            raise Killed

    output = tmp_path / "adapter"
    with pytest.raises(Killed):
        run(base, output, CAREFUL, dev=None, listener=Listener(on_epoch=kill))
    shutil.copytree(output / "checkpoint", output / "checkpoint.old")
    run(base, output, CAREFUL, dev=None, resume=True)
    assert not list(output.glob("checkpoint*"))


def test_nothing_to_train_or_to_learn_from_is_an_error(base: BaseModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to train"):
        run(base, tmp_path / "adapter", method="hard-prompt")
    with pytest.raises(InputError, match="no topic"):
        run(base, tmp_path / "adapter", data=TrainingData(RUN, TOPICS, {"0": {"d1": 0}}))
    with pytest.raises(InputError, match="^the qrels are empty$"):
        TrainingData(RUN, TOPICS, {})
    for what in ("data", "dev"):
        with pytest.raises(InputError, match="^the run is empty$"):
            run(base, tmp_path / "adapter", **{what: TrainingData([], TOPICS, QRELS)})
    assert not (tmp_path / "adapter").exists()


def forbidden() -> Any:
    raise AssertionError("the run was read")
    yield


def test_a_folder_that_cannot_be_written_is_an_error_before_anything_is_read(
    base: BaseModel, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    never = TrainingData(forbidden(), TOPICS, QRELS)
    for output, what in (
        (tmp_path / "file", "is a file"),
        (tmp_path / "file" / "adapter", "is a file"),
        (tmp_path / ("a" * 300), "cannot be the output folder"),
    ):
        with pytest.raises(InputError, match=what):
            run(base, output, data=never)
    with pytest.raises(InputError, match="select: there is no development run"):
        run(base, tmp_path / "adapter", changed(select="RR@10"), dev=None, data=never)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_an_error(base: BaseModel, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match="no permission to write"):
            run(base, tmp_path / "adapter", data=TrainingData(forbidden(), TOPICS, QRELS))
    finally:
        tmp_path.chmod(0o700)


def test_record_and_card_say_where_the_data_come_from(base: BaseModel, tmp_path: Path) -> None:
    sources = {"run": "/data/run.bm25.txt", "collection": "squad", "dev_run": None}
    record = run(base, tmp_path / "adapter", changed(epochs=1), dev=None, sources=sources)
    settings = record["settings"]
    assert settings["sources"] == sources and settings["processes"] == 1
    assert settings["base_model"]["dtype"] == "float32" and settings["base_model"]["device"] == "cpu"
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "* collection: squad\n* run: run.bm25.txt\n" in card and "/data" not in card


def test_memory_that_runs_out_is_an_error_that_says_what_to_do(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(PairLosses, "forward", full)
    for dev in (None, DEV):
        with pytest.raises(
            InputError, match="batch_size 2: take a smaller batch_size with accumulate, or ch"
        ):
            run(base, tmp_path / "adapter", dev=dev)


def test_limits_are_estimated_once(base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[None] = []
    limits = objective.default_limits
    monkeypatch.setattr(objective, "default_limits", lambda base: (asked.append(None), limits(base))[1])
    run(base, tmp_path / "adapter", changed(epochs=2))
    assert len(asked) == 1


def test_a_measure_that_does_not_exist_is_an_error_before_training(base: BaseModel, tmp_path: Path) -> None:
    steps: list[int] = []
    with pytest.raises(InputError, match="ndgc"):
        run(
            base,
            tmp_path / "adapter",
            changed(select="ndgc"),
            listener=Listener(on_step=lambda *a: steps.append(1)),
        )
    assert not steps
