"""The chains in pipelines/ run, on a small collection and a tiny model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qpeft_rerank.errors import InputError
from qpeft_rerank.models.config import AdapterConfig
from qpeft_rerank.topics import read_topics
from qpeft_rerank.training.config import TrainingConfig
from qpeft_rerank.trec import Ranking, ScoredDoc, load_run, read_qrels, write_run

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


def test_dev_topics_are_split_by_article(tmp_path: Path) -> None:
    docids = [f"{article}-{n:02}" for article in ("Bee", "Ice_age", "Map", "Tea", "Yak") for n in range(3)]
    for split, names in (("dev", docids), ("test", ["Zoo-00"])):
        (tmp_path / f"topics.{split}.tsv").write_text("".join(f"q{d}\twhat is {d}\n" for d in names))
        (tmp_path / f"qrels.{split}.txt").write_text("".join(f"q{d} 0 {d} 1\n" for d in names))
    script = ROOT / "pipelines" / "split_unread.py"
    command = [sys.executable, str(script), str(tmp_path), str(tmp_path / "out")]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    halves = [list(read_topics(tmp_path / "out" / f"topics.{split}.tsv")) for split in ("train", "dev")]
    assert sorted(map(len, halves)) == [6, 9] and sorted(halves[0] + halves[1]) == [f"q{d}" for d in docids]
    articles = [{qid.rsplit("-", 1)[0] for qid in half} for half in halves]
    assert not articles[0] & articles[1], "an article stays together"
    for split, half in zip(("train", "dev"), halves, strict=True):
        assert list(read_qrels(tmp_path / "out" / f"qrels.{split}.txt")) == half
    assert list(read_topics(tmp_path / "out" / "topics.test.tsv")) == ["qZoo-00"]


def ablations(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "pipelines" / "ablations.py"), *flags]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


def test_ablations_are_trained_once_measured_tested_and_drawn(tmp_path: Path) -> None:
    """On the packaged collection, with runs that rank all relevant passages somewhere."""
    shutil.copytree(DEMO, tmp_path / "small")
    collection, output = tmp_path / "small" / "collection.toml", tmp_path / "out"
    docids = [json.loads(line)["id"] for line in (DEMO / "corpus.jsonl").read_text().splitlines()]
    for split in ("train", "dev"):
        rankings = []
        for n, (qid, grades) in enumerate(read_qrels(DEMO / f"qrels.{split}.txt").items()):
            found = list(dict.fromkeys([*docids[n : n + 2], *list(grades)[:3], *docids[-n - 9 :]]))[:12]
            rankings.append(Ranking(qid, [ScoredDoc(d, -float(place)) for place, d in enumerate(found)]))
        write_run(rankings, tmp_path / "small" / f"run.demo.bm25.{split}.txt", "bm25")
    small = "--train-topics 4 --dev-topics 6 --epochs 1 --depth 6 --passage-tokens 40 --device cpu".split()
    flags = ["-c", str(collection), "--output", str(output), "--model", str(MODEL), *small]
    first = ablations(*flags, "--only", "similarity", "hints", "--seeds", "0", "1")
    assert first.returncode == 0, first.stderr
    names = ["qpeft-r", "qpeft-r.similarity.dot", "hard-prompt", "soft-prompt", "random", "vocab"]
    folders = {f"{name}.seed{seed}" for name in names for seed in (0, 1)}
    assert {path.name for path in output.iterdir() if path.is_dir()} == folders
    assert (output / "similarity.qpeft-r.png").read_bytes().startswith(b"\x89PNG")
    lines = [json.loads(line) for line in (output / "ablations.jsonl").read_text().splitlines()]
    values = ["cosine", "dot", "qpeft-r", "hard-prompt", "soft-prompt", "random", "vocab"]
    assert [line["value"] for line in lines] == values, "the baseline is the first of each ablation"
    for line in lines:
        for name in ("nDCG@10", "nDCG@10 with weight"):
            seeds = [found[name] for found in line["seeds"].values()]
            assert 0.05 < min(seeds) <= line[name] <= max(seeds)
            if line["value"] not in ("cosine", "qpeft-r"):
                assert 0 <= line[f"{name}: test"]["p"] <= line[f"{name}: test"]["p_holm"] <= 1
        assert line["settings"]["epochs"] == 1 and line["settings"]["depth"] == 6
        assert line["settings"].get("similarity", "cosine") == ("dot" if line["value"] == "dot" else "cosine")
    by_value = {line["value"]: line for line in lines}
    assert by_value["hard-prompt"]["trained_parameters"] == 0
    assert by_value["random"]["trained_parameters"] == by_value["qpeft-r"]["trained_parameters"] > 0

    written = {path: path.stat().st_mtime_ns for path in output.glob("*/training.json")}
    shutil.rmtree(output / "random.seed1")
    again = ablations(*flags, "--only", "hints", "--seeds", "1")
    assert again.returncode == 0 and again.stdout == ablations("--output", str(output), "--table").stdout
    later = {path: path.stat().st_mtime_ns for path in output.glob("*/training.json")}
    assert {path.parent.name for path in later if later[path] != written[path]} == {"random.seed1"}
    lines = [json.loads(line) for line in (output / "ablations.jsonl").read_text().splitlines()]
    assert [line["value"] for line in lines] == values
    assert [len(line["seeds"]) for line in lines] == [2, 2, 1, 1, 1, 1, 1]
    for line in lines[2:]:
        for name in ("nDCG@10", "nDCG@10 with weight"):
            assert line[name] == pytest.approx(line["seeds"]["1"][name]), "as the training measured it"
    other = ablations(*flags, "--only", "hints", "--learning-rate", "0.1")
    assert other.returncode == 2 and "was made with another training.learning_rate" in other.stderr


def test_every_ablation_has_its_baseline_and_values_that_are_possible(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "pipelines"))
    from ablations import ABLATIONS, variants

    for method in ("qpeft-a", "qpeft-r", "random"):
        for name in ABLATIONS:
            found = variants(name, AdapterConfig(method=method), TrainingConfig(epochs=3))
            assert found[0].name == found[0].settings.method == (ABLATIONS[name].method or method)
            made = [(v.settings, v.training) for v in found]
            assert len({v.name for v in found}) == len(found) == len(set(made)) == len(ABLATIONS[name].values)
            assert all(v.training.epochs == 3 for v in found)
    given = variants("k", AdapterConfig(method="qpeft-r", k=7), TrainingConfig())
    assert [v.value for v in given] == ["as given", "1", "5", "15", "30"] and given[0].settings.k == 7
    hard = {v.value: v.settings for v in variants("hints", AdapterConfig(), TrainingConfig())}["hard-prompt"]
    assert hard == AdapterConfig(method="hard-prompt"), "its own prompt"
    with pytest.raises(InputError, match="--method hard-prompt"):
        variants("margin", AdapterConfig(method="hard-prompt"), TrainingConfig())


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One in which ``qpeft`` is this package."""
    commands = tmp_path_factory.mktemp("bin")
    (commands / "qpeft").write_text(f'#!/bin/sh\nexec {sys.executable} -m qpeft_rerank "$@"\n')
    (commands / "qpeft").chmod(0o755)
    return os.environ | {
        "PATH": f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "METHODS": "qpeft-a",
        "TRAIN": "--train-topics 4 --dev-topics 2 --epochs 1 --depth 5",
        "RERANK": "--depth 5",
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
def test_a_dense_first_stage_is_adapted_trained_fused_and_reranked(squad, environment) -> None:
    """Which steps there are in all is tested with less work in `test_study`."""
    command, output, _ = squad
    dense = {
        "ENCODERS": "llara-repllama",
        "RERANKERS": "qpeft-a",
        "ADAPT": "--passages 8 --passage-tokens 20",
    }
    done = subprocess.run(command, env=environment | dense, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = ["llara-repllama", "bm25+llara-repllama", "bm25+llara-repllama+qpeft-a"]
    assert all(f"run.squad.{name}.test" in done.stdout for name in names[:2])
    template = json.loads((output / "adapter.llara-repllama" / "encoder.json").read_text())["settings"]
    assert template["passage_marks"][0] == "<s1>"
    assert json.loads((output / "weights.llara-repllama.json").read_text())["measure"] == "nDCG@10"
    runs = {name: load_run(output / f"run.squad.{name}.test.txt") for name in ["bm25", *names]}
    for qid, hybrid in runs["bm25+llara-repllama"].items():
        found = [{doc.docid for doc in run[qid].docs} for run in runs.values()]
        assert found[2] <= found[0] | found[1] and found[3] == {doc.docid for doc in hybrid.docs}
