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
MODEL = ROOT / "tests" / "parity" / "model"


@pytest.mark.parametrize("script", sorted((ROOT / "pipelines").glob("*.sh")), ids=lambda path: path.name)
def test_every_script_is_well_formed(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert os.access(script, os.X_OK)


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
