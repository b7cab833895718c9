"""The chains in pipelines/ run, on a small collection and a tiny model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qpeft_rerank.topics import read_topics
from qpeft_rerank.trec import load_run, read_qrels

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "qpeft_rerank" / "demo" / "collection"


@pytest.mark.parametrize("script", sorted((ROOT / "pipelines").glob("*.sh")), ids=lambda path: path.name)
def test_every_script_is_well_formed(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert os.access(script, os.X_OK)


MODEL = ROOT / "tests" / "parity" / "model"


def test_figures_are_checked_against_the_expected_ones(tmp_path: Path) -> None:
    (tmp_path / "squad").mkdir()
    (tmp_path / "squad" / "qrels.test.txt").write_text("1 0 a 1\n2 0 b 1\n")
    (tmp_path / "squad" / "run.squad.bm25.test.txt").write_text("1 Q0 a 1 2.0 x\n2 Q0 c 1 2.0 x\n")
    command = [sys.executable, str(ROOT / "pipelines" / "check_figures.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["squad", "bm25", "nDCG@10"] and lines[0].endswith("now 0.5000")
    assert "missing" in done.stdout and lines[-1].startswith("0 of ")


def test_a_dev_split_is_made_of_train_passages(tmp_path: Path) -> None:
    docids = [f"d{n}" for n in range(300)]
    for split, qids in (("train", docids), ("test", docids[:3])):
        (tmp_path / f"topics.{split}.tsv").write_text("".join(f"{split}-{d}\twhat is {d}\n" for d in qids))
        (tmp_path / f"qrels.{split}.txt").write_text("".join(f"{split}-{d} 0 {d} 1\n" for d in qids))
    command = [sys.executable, str(ROOT / "pipelines" / "split_dev.py"), str(tmp_path), str(tmp_path / "out")]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    topics = {s: set(read_topics(tmp_path / "out" / f"topics.{s}.tsv")) for s in ("train", "dev", "test")}
    assert 10 < len(topics["dev"]) < 50 and not topics["dev"] & topics["train"]
    assert topics["dev"] | topics["train"] == {f"train-{d}" for d in docids[3:]}, (
        "not what is relevant in test"
    )
    for split, qids in topics.items():
        assert set(read_qrels(tmp_path / "out" / f"qrels.{split}.txt")) == qids


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
