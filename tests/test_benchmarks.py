"""The benchmarks compare like with like, run at a small size, and write what they saw."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"
SMALL = {
    "scoring_cpu": "--models tiny --methods qpeft-r --dtypes float32 --topics 1 --depth 3 --plain-batches 2 "
    "--no-cross-encoder",
    "scoring_gpu": "--device cpu --layers 1 --models tiny --methods qpeft-a --topics 1 --depth 2 --matmul 64 "
    "--plain-batches 2",
    "passage_sharing": "--model tiny --methods hard-prompt --topics 3 --depth 2",
    "profile_stages": "--models tiny --dtypes float32 --topics 1 --depth 3 --lines 500",
    "training_step": "--models tiny --methods qpeft-a --batch-size 2 --ways ours",
    "trec_files": "--topics 5 --depth 9 --systems ours pytrec_eval",
    "scale": "--topics 2 --depth 2",
    "startup": "--calls",
}


@pytest.fixture(autouse=True)
def scripts_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for the processes that they start


@pytest.fixture
def few_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("placement", ["suffix", "prefix"])
@pytest.mark.parametrize("method", ["hard-prompt", "qpeft-r", "qpeft-a"])
def test_the_plain_loop_gives_the_scores_of_our_engine(method: str, placement: str) -> None:
    from candidates import made_pairs
    from plain_loop import plain_scores
    from random_models import random_base, random_reranker

    base = random_base("tiny")
    with torch.no_grad():
        for parameter in base.model.parameters():  # larger weights than usual: scores that differ well
            if parameter.dim() > 1:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(parameter.numel()))
    reranker = random_reranker(base, method, placement)
    pairs = made_pairs(topics=2, depth=6, words=30) + made_pairs(topics=3, depth=6, words=30, passages=8)
    assert len({passage.docid for _, passage in pairs[12:]}) == 8
    plain = plain_scores(reranker.scorer, pairs, batch_size=4)
    assert plain.std() > 0.01
    assert np.abs(reranker.score(pairs) - plain).max() < 1e-4


@pytest.mark.parametrize("method", ["qpeft-r", "qpeft-a"])
def test_the_plain_loop_takes_the_same_training_step(method: str) -> None:
    from candidates import made_pairs
    from plain_loop import plain_step_loss
    from random_models import random_base, random_reranker
    from training_step import made_step

    from qpeft_rerank.training.config import TrainingConfig
    from qpeft_rerank.training.step import PairLosses, step_loss

    reranker = random_reranker(random_base("tiny"), method)
    scorer, step = reranker.scorer, made_step(made_pairs(3, 2, words=20))
    scorer.eval()  # no dropout
    gradients = []
    training = TrainingConfig(margin=0.5)
    for loss in (
        step_loss(PairLosses(scorer), scorer, step, training, reranker.limits),
        plain_step_loss(scorer, step, training.margin),
    ):
        scorer.zero_grad()
        loss.backward()
        weight = next(p for name, p in scorer.trained_parameters().items() if "mlp" in name)
        gradients.append((loss.item(), weight.grad.clone()))
    (ours, our_gradient), (plain, plain_gradient) = gradients
    assert ours == pytest.approx(plain, abs=1e-4)
    assert torch.allclose(our_gradient, plain_gradient, atol=1e-4 * float(plain_gradient.abs().max()) + 1e-7)


def test_every_benchmark_is_tried_here() -> None:
    shared = {"side_by_side", "random_models", "candidates", "plain_loop"}
    assert {path.stem for path in BENCHMARKS.glob("*.py")} == shared | set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_runs_and_writes_what_it_saw(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    few_threads: None,
) -> None:
    output = tmp_path / "seen" / f"{name}.json"
    words = [*SMALL[name].split(), *(["qpeft --help"] if name == "startup" else [])]
    words += ["--repeats", "1", "--output", str(output), "--threads", "1"]
    script = str(BENCHMARKS / f"{name}.py")
    monkeypatch.setattr(sys, "argv", [script, *words])
    runpy.run_path(script, run_name="__main__")
    seen = json.loads(output.read_text(encoding="utf-8"))
    assert seen["rows"] and seen["settings"]["repeats"] == 1
    assert seen["machine"]["cpu"] and seen["packages"]["numpy"] and "git_revision" in seen
    assert f"written to {output}" in capsys.readouterr().out


def test_evaluations_of_all_systems_agree(tmp_path: Path) -> None:
    from trec_files import make_files, our_evaluation, pytrec_eval_evaluation

    make_files(tmp_path, topics=20, depth=50)
    files = tmp_path / "run.txt", tmp_path / "qrels.txt"
    assert list(our_evaluation(*files).values()) == pytest.approx(
        list(pytrec_eval_evaluation(*files).values())
    )


def test_without_a_gpu_the_gpu_benchmark_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command = [sys.executable, str(BENCHMARKS / "scoring_gpu.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "no CUDA device" in done.stderr and "Traceback" not in done.stderr
