"""What is made of a study's runs: checked figures, copies for ``runs/``, tables, the best learning rate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qpeft_rerank.trec import Ranking, ScoredDoc, load_run, write_run

ROOT = Path(__file__).parent.parent


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
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    only = subprocess.run([*command, "--only", "nq-qed"], capture_output=True, text=True, env=environment)
    assert {line.split()[0] for line in only.stdout.splitlines()[:-1]} == {"nq-qed"}
    (tmp_path / "squad" / "qrels.test.txt").unlink()
    broken = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert broken.returncode == 2 and "qrels file not found" in broken.stderr
    assert len(broken.stderr.splitlines()) == 1


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """What `study.sh` leaves, of two systems with two seeds each."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "small.toml").write_text('name = "small"\n')
    (folder / "qrels.test.txt").write_text("1 0 a 1\n2 0 b 1\n")
    first = {"bm25": "ab", "rm3": "ba", "hard-prompt": "ba", "qpeft-a": "ab", "qpeft-a.seed1": "ba"}
    for system, docs in {**first, "bm25+qpeft-a": "ab", "bm25+qpeft-a.seed1": "ab"}.items():
        rankings = [Ranking("1", [ScoredDoc(docs[0], 2.0), ScoredDoc(docs[1], 1.0)])]
        write_run(rankings, folder / f"run.small.{system}.test.txt", "x")
        if "+" not in system and system not in ("bm25", "rm3"):
            record = {
                "settings": {"passages": "the index out/small/index", "topics": None, "prompt": "a / b"}
            }
            (folder / f"run.small.{system}.test.txt.json").write_text(json.dumps(record))
    for system, lora in (("qpeft-a", None), ("qpeft-a.seed1", "out/small/adapter.qpeft-a/lora")):
        adapter = folder / f"adapter.{system}"
        adapter.mkdir()
        settings = {"run": str(folder / "run.txt"), "k": [15], "base_model": {"lora": lora}}
        record = {"trained_parameters": 1_704_448, "settings": settings}
        (adapter / "training.json").write_text(json.dumps(record))
        (adapter / "adapter_model.safetensors").write_bytes(bytes(13_816))
    return folder


def test_runs_are_collected_with_records_that_name_no_folder(study: Path, tmp_path: Path) -> None:
    target = tmp_path / "runs"
    for rate in ("0.01", "0.001"):
        (study / "rates" / f"lora.{rate}").mkdir(parents=True)
        (study / "rates" / f"lora.{rate}" / "training.json").write_text(f'{{"run": "a/b", "rate": {rate}}}')
    command = [sys.executable, str(ROOT / "pipelines" / "collect_runs.py"), str(study), str(target)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    systems = {"bm25", "hard-prompt", "qpeft-a", "qpeft-a.seed1"}
    assert {path.name for path in target.glob("*.gz")} == {f"run.small.{s}.test.txt.gz" for s in systems}
    assert sorted(Path(line) for line in done.stdout.splitlines()) == sorted(target.iterdir())
    assert load_run(target / "run.small.qpeft-a.test.txt.gz") == load_run(
        study / "run.small.qpeft-a.test.txt"
    )
    settings = json.loads((target / "run.small.qpeft-a.test.json").read_text())["settings"]
    assert settings == {"passages": "the index index", "topics": None, "prompt": "a / b"}
    record = json.loads((target / "training.qpeft-a.json").read_text())
    assert record["settings"] == {"run": "run.txt", "k": [15], "base_model": {"lora": None}}
    tried = (target / "learning-rates.lora.jsonl").read_text().splitlines()
    assert tried == ['{"run": "b", "rate": 0.001}', '{"run": "b", "rate": 0.01}']
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    options = ["--name", "nq", "--topics", "test-half", "--only", "*.seed?"]
    subprocess.run([*command[:-1], str(tmp_path / "some"), *options], check=True, env=environment)
    some = ["run.nq.qpeft-a.seed1.test-half.json", "run.nq.qpeft-a.seed1.test-half.txt.gz"]
    assert sorted(path.name for path in (tmp_path / "some").iterdir()) == [
        *some,
        "training.qpeft-a.seed1.json",
    ]
    wrong = subprocess.run([*command[:2], str(target), "x"], capture_output=True, text=True, env=environment)
    assert wrong.returncode == 2 and "has 0 collection files, not one" in wrong.stderr


def test_tables_are_made_of_a_studys_runs(study: Path) -> None:
    command = [sys.executable, str(ROOT / "pipelines" / "results_table.py"), str(study)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def lines(*options: str) -> list[str]:
        done = subprocess.run([*command, *options], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    # Of two judged topics one is found, at rank 1 or 2.
    first, second = "0.5000 | 0.5000 | 0.5000", "0.3155 | 0.2500 | 0.0000"
    rest = "**0.5000** | **0.5000** | **0.5000**"
    best = first.replace("0.5000", "**0.5000**")
    assert lines()[2:] == [
        f"| BM25 | {best} | {rest} | | |",
        f"| BM25 + RM3 | {second} | {rest} | | |",
        f"| hard prompt | {second} | {rest} | 0 | |",
        f"| Q-PEFT-A | {best} | {rest} | 1,704,448 | 14 kB |",
        f"| qpeft-a.seed1 | {second} | {rest} | 3,408,896 | 28 kB |",
        f"| BM25 and Q-PEFT-A | {best} | {rest} | 1,704,448 | 14 kB |",
        f"| BM25 and qpeft-a.seed1 | {best} | {rest} | 3,408,896 | 28 kB |",
    ]
    assert lines("--seeds")[2:] == [
        "| BM25 | 0.5000 | |",
        "| hard prompt | 0.3155 | |",
        "| Q-PEFT-A | 0.4077 ± 0.1305 | 0.5000 ± 0.0000 |",
    ]
    assert lines("--yaml")[0] == "  bm25: {nDCG@10: 0.5000, RR@10: 0.5000, Success@1: 0.5000, R@50: 0.5000}"


def test_learning_rates_are_chosen_by_the_loss_of_the_epoch_that_was_kept(study: Path) -> None:
    command = [sys.executable, str(ROOT / "pipelines" / "learning_rates.py"), str(study)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *options], capture_output=True, text=True, env=environment)

    def tried(method: str, spelled: str, losses: list[float], kept: int) -> None:
        rate = float(spelled)
        (study / "rates" / f"{method}.{spelled}").mkdir(parents=True)
        record = {
            "settings": {"training": {"learning_rate": rate}},
            "epochs": [{"epoch": epoch, "dev_loss": loss} for epoch, loss in enumerate(losses)],
            "best_epoch": kept,
            "dev": {"nDCG@10": rate} | ({} if method == "repllama" else {"nDCG@10 with weight": 0.5}),
        }
        (study / "rates" / f"{method}.{spelled}" / "training.json").write_text(json.dumps(record))

    nothing = run()
    assert nothing.returncode == 2 and "no learning rates were tried there" in nothing.stderr
    tried("qpeft-a", "0.01", [1.0, 3.0, 2.5], kept=2)
    tried("qpeft-a", "3e-3", [4.0, 2.4], kept=1)
    tried("lora", "0.0003", [2.0], kept=0)
    tried("lora", "0.001", [2.0], kept=0)
    tried("repllama", "0.001", [2.0], kept=0)
    assert run().stdout.splitlines()[2:] == [
        "| LoRA | **0.0003** | 2.000 | 2.000 | 0.0003 | 0.5000 |",
        "| LoRA | 0.001 | 2.000 | 2.000 | 0.0010 | 0.5000 |",
        "| Q-PEFT-A | **0.003** | 4.000, 2.400 | 2.400 | 0.0030 | 0.5000 |",
        "| Q-PEFT-A | 0.01 | 1.000, 3.000, 2.500 | 2.500 | 0.0100 | 0.5000 |",
        "| repllama | **0.001** | 2.000 | 2.000 | 0.0010 |  |",
    ]
    assert run("--best", "qpeft-a", "0.01").stdout == "0.01\n", "of those that are asked for"
    assert run("--best", "qpeft-a").stdout == "3e-3\n", "as it was spelled"
    assert run("--best", "lora").stdout == "0.0003\n"
    assert run("--best", "qpeft-r").stderr.endswith("no learning rate was tried for qpeft-r\n")
    assert run("--plot", str(study / "rates.png")).returncode == 0
    assert (study / "rates.png").read_bytes().startswith(b"\x89PNG")
