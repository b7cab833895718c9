"""The chains in pipelines/ run, on a small collection and a tiny model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "qpeft_rerank" / "demo" / "collection"


@pytest.mark.parametrize("script", sorted((ROOT / "pipelines").glob("*.sh")), ids=lambda path: path.name)
def test_every_script_is_well_formed(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert os.access(script, os.X_OK)


@pytest.mark.java
@pytest.mark.slow
def test_the_squad_chain_runs_and_a_second_call_repeats_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "corpus").mkdir(parents=True)
    shutil.copy(DEMO / "corpus.jsonl", data / "corpus" / "docs.jsonl")
    for split in ("train", "dev", "test"):
        shutil.copy(DEMO / f"qrels.{split}.txt", data)
        lines = (DEMO / f"topics.{split}.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
        (data / f"topics.{split}.tsv").write_text("".join(lines[:6]), encoding="utf-8")
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "qpeft").write_text(f'#!/bin/sh\nexec {sys.executable} -m qpeft_rerank "$@"\n')
    (commands / "qpeft").chmod(0o755)
    environment = os.environ | {
        "PATH": f"{commands}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "METHODS": "qpeft-a",
        "TRAIN": "--train-topics 4 --dev-topics 2 --epochs 1 --depth 5",
        "RERANK": "--depth 5",
        "OMP_NUM_THREADS": "1",
    }
    output = tmp_path / "out"
    command = [
        str(ROOT / "pipelines" / "squad.sh"),
        str(data),
        str(output),
        str(ROOT / "tests" / "parity" / "model"),
    ]
    first = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    assert "qpeft-a" in first.stdout and "nDCG@10" in first.stdout
    assert json.loads((output / "run.squad.qpeft-a.test.txt.json").read_text())["settings"]["depth"] == 5
    written = {path: path.stat().st_mtime_ns for path in output.glob("run.*.txt")}
    second = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert second.returncode == 0 and second.stdout == first.stdout
    assert {path: path.stat().st_mtime_ns for path in output.glob("run.*.txt")} == written
