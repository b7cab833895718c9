"""The chains in pipelines/ run, on a small collection and a tiny model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qpeft_rerank.trec import load_run

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "qpeft_rerank" / "demo" / "collection"


@pytest.mark.parametrize("script", sorted((ROOT / "pipelines").glob("*.sh")), ids=lambda path: path.name)
def test_every_script_is_well_formed(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert os.access(script, os.X_OK)


MODEL = ROOT / "tests" / "parity" / "model"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One in which ``qpeft`` is this package."""
    commands = tmp_path_factory.mktemp("bin")
    (commands / "qpeft").write_text(f'#!/bin/sh\nexec {sys.executable} -m qpeft_rerank "$@"\n')
    (commands / "qpeft").chmod(0o755)
    return os.environ | {
        "PATH": f"{commands}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "METHODS": "qpeft-a",
        "TRAIN": "--train-topics 4 --dev-topics 2 --epochs 1 --depth 5",
        "RERANK": "--depth 5",
        "ENCODER": f"--model {MODEL}",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="module")
def squad(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]
) -> tuple[list[str], Path, subprocess.CompletedProcess[str]]:
    """The command of the SQuAD chain, where its files are, and how it ended."""
    folder = tmp_path_factory.mktemp("squad")
    data = folder / "data"
    (data / "corpus").mkdir(parents=True)
    shutil.copy(DEMO / "corpus.jsonl", data / "corpus" / "docs.jsonl")
    for split in ("train", "dev", "test"):
        shutil.copy(DEMO / f"qrels.{split}.txt", data)
        lines = (DEMO / f"topics.{split}.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
        (data / f"topics.{split}.tsv").write_text("".join(lines[:6]), encoding="utf-8")
    output = folder / "out"
    command = [str(ROOT / "pipelines" / "study.sh"), "squad", str(data), str(output), str(MODEL)]
    return command, output, subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.java
@pytest.mark.slow
def test_the_squad_chain_runs_and_a_second_call_repeats_nothing(squad, environment) -> None:
    command, output, first = squad
    assert first.returncode == 0, first.stderr
    assert "qpeft-a" in first.stdout and "nDCG@10" in first.stdout
    assert "bm25+hard-prompt" in first.stdout
    assert json.loads((output / "run.squad.qpeft-a.test.txt.json").read_text())["settings"]["depth"] == 5
    written = {path: path.stat().st_mtime_ns for path in output.glob("run.*.txt")}
    second = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert second.returncode == 0 and second.stdout == first.stdout
    assert {path: path.stat().st_mtime_ns for path in output.glob("run.*.txt")} == written


@pytest.mark.java
@pytest.mark.slow
def test_two_first_stages_are_fused_with_tuned_weights_and_reranked(squad, environment, tmp_path) -> None:
    _, output, _ = squad
    script, collection = str(ROOT / "pipelines" / "hybrid.sh"), str(output / "squad.toml")
    command = [script, collection, str(tmp_path), "--model", str(MODEL), "--depth", "5"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "the best of 21: weights" in done.stderr and "run.reranked.test" in done.stdout
    assert json.loads((tmp_path / "weights.json").read_text())["measure"] == "nDCG@10"
    hybrid, reranked = (load_run(tmp_path / f"run.{name}.test.txt") for name in ("hybrid", "reranked"))
    for qid, ranking in hybrid.items():
        assert {doc.docid for doc in ranking.docs} == {doc.docid for doc in reranked[qid].docs}


@pytest.mark.java
@pytest.mark.slow
def test_an_adapted_model_becomes_an_encoder_whose_run_is_reranked(squad, environment, tmp_path) -> None:
    _, output, _ = squad
    small = {"ADAPT": "--passages 8 --passage-tokens 20", "RERANK": f"--model {MODEL} --depth 5"}
    command = [str(ROOT / "pipelines" / "dense.sh"), str(output / "squad.toml"), str(tmp_path), str(MODEL)]
    settings = environment | small | {"SYSTEMS": "llara-repllama"}
    done = subprocess.run(command, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(
        f"run.{name}.test" in done.stdout for name in ("bm25", "llara-repllama", "llara-repllama.reranked")
    )
    template = json.loads((tmp_path / "llara-repllama" / "encoder.json").read_text())["settings"]
    assert template["passage_marks"][0] == "<s1>"
