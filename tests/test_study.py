"""Which steps `pipelines/study.sh` takes, with a `qpeft` that notes its calls and makes empty files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FAMILY = {
    "METHODS": "rankllama qpeft-a",
    "ENCODERS": "repllama llara-repllama",
    "RERANKERS": "qpeft-a",
    "TRAIN": "--epochs 4",
    "TRAIN_repllama": "--batch-size 32",
    "TRAIN_rankllama": "--no-in-batch",
    "RERANK_rankllama": "--depth 20",
    "ADAPT": "--passages 9",
    "INDEX": "--kind hnsw",
    "ENCODE": "--vector-type float16",
}

# It fails where a run that it reads is not there, and at call number $KILL_AT before it has made anything.
FAKE = r"""#!/bin/bash
echo "$*" >>"$LOG.begun"
verb=$1
shift
made=() rate=0.001
while [ $# -gt 0 ]; do
  case $1 in
  --output | --save) made+=("$2") && shift ;;
  --learning-rate) rate=$2 && shift ;;
  *.txt) [ -f "$1" ] || { echo "$verb: there is no $1" >&2 && exit 2; } ;;
  esac
  shift
done
[ "$(wc -l <"$LOG.begun")" != "${KILL_AT:-0}" ] || exit 143
for path in "${made[@]}"; do
  case $verb in
  train | adapt)
    mkdir -p "$path" && touch "$path/run.dev.txt"
    settings='{"training": {"learning_rate": '$rate'}}'
    losses='[{"epoch": 0, "dev_loss": 0}, {"epoch": 1, "dev_loss": '$rate'}]'
    echo '{"dev": {}, "best_epoch": 1, "settings": '$settings', "epochs": '$losses'}' >"$path/training.json"
    echo '{"weight": 0.35}' >"$path/adapter_config.json"
    ;;
  encode) mkdir -p "$path" && touch "$path/shards-0-of-1.json" ;;
  index | dense-index) mkdir -p "$path" ;;
  *) touch "$path" ;;
  esac
done
tail -n 1 "$LOG.begun" >>"$LOG.done"
"""


@pytest.fixture
def study(tmp_path: Path):
    """Runs the script on a small collection; gives the steps that ended well, each as a list of words."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "qpeft").write_text(FAKE)
    (tmp_path / "bin" / "qpeft").chmod(0o755)
    for split in ("train", "dev", "test"):
        (tmp_path / f"topics.{split}.tsv").write_text(f"{split}1\ta\n{split}2\tb\n")
        (tmp_path / f"qrels.{split}.txt").write_text(f"{split}1 0 d 1\n{split}2 0 d 1\n")

    def run(output: str, kill_at: int = 0, code: int = 0, **environment: str) -> list[list[str]]:
        log = tmp_path / f"{output}.log"
        for file in (Path(f"{log}.begun"), Path(f"{log}.done")):
            file.unlink(missing_ok=True)
        path = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        command = [str(ROOT / "pipelines" / "study.sh"), "small", str(tmp_path), str(tmp_path / output)]
        done = subprocess.run(
            command,
            env={
                "PATH": path,
                "LOG": str(log),
                "KILL_AT": str(kill_at),
                "PYTHONPATH": str(ROOT),
                **environment,
            },
            capture_output=True,
            text=True,
        )
        assert done.returncode == (143 if kill_at else code), done.stderr
        finished = Path(f"{log}.done")
        lines = finished.read_text().splitlines() if finished.exists() else []
        return [line.replace(str(tmp_path / output), "OUT").split() for line in lines]

    return run


def made(steps: list[list[str]]) -> list[str]:
    """Names of the test runs that were written."""
    outputs = [step[step.index("--output") + 1] for step in steps if "--output" in step]
    names = [Path(path).name for path in outputs]
    return [name[len("run.small.") : -len(".test.txt")] for name in names if name.endswith(".test.txt")]


def test_every_row_of_the_family_is_made(study) -> None:
    steps = study("out", **FAMILY)
    rerankers = ["hard-prompt", "rankllama", "qpeft-a"]
    rows = ["bm25", "rm3", *rerankers, *(f"bm25+{name}" for name in rerankers)]
    for encoder in ("repllama", "llara-repllama"):
        hybrid = f"bm25+{encoder}"
        rows += [encoder, hybrid, f"{hybrid}_qpeft-a", f"{hybrid}+qpeft-a"]
    assert sorted(made(steps)) == sorted(rows)
    tables = [[Path(w).name for w in step if "/run." in w] for step in steps if step[0] == "evaluate"]
    assert {name for table in tables for name in table} >= {
        f"run.small.{row}.test.txt" for row in rows if "_" not in row
    }
    assert ["run.small.repllama.test.txt", "run.small.llara-repllama.test.txt"] in tables
    assert ["run.small.bm25+repllama.test.txt", "run.small.bm25+repllama+qpeft-a.test.txt"] in tables


def test_nothing_is_chosen_on_test_topics(study) -> None:
    for step in study("out", **FAMILY):
        words = " ".join(step)
        if step[0] == "train":
            assert "bm25.train.txt" in words and "bm25.dev.txt" in words and ".test." not in words
        if "--tune" in step:
            assert step[step.index("--split") + 1] in ("dev", "tune") and ".test." not in words
        if step[0] == "adapt":
            assert "topics" not in words and "qrels" not in words and "run." not in words


def test_an_adapter_has_the_weight_that_its_training_chose(study) -> None:
    steps = study("out", METHODS="qpeft-a")
    (fused,) = [step for step in steps if step[0] == "fuse" and "OUT/run.small.qpeft-a.test.txt" in step]
    assert fused[fused.index("--weights") + 1] == "0.65,0.35"


def test_flags_of_one_method_are_of_that_method_alone(study) -> None:
    steps = study("out", **FAMILY)

    def flags(verb: str, word: str) -> set[str]:
        found = [" ".join(step) for step in steps if step[0] == verb and any(word in w for w in step)]
        given = ("--epochs 4", "--batch-size 32", "--no-in-batch", "--depth 20", "--passages 9")
        assert found
        return {flag for flag in given for words in found if flag in words}

    assert flags("train", "adapter.qpeft-a") == {"--epochs 4"}
    assert flags("train", "adapter.rankllama") == {"--no-in-batch"}
    assert flags("train", "OUT/adapter.repllama") == {"--batch-size 32"}
    assert flags("train", "OUT/adapter.llara-repllama") == {"--batch-size 32"}, (
        "the same with LLaRA and without"
    )
    assert flags("rerank", "adapter.rankllama") == {"--depth 20"}
    assert flags("rerank", "adapter.qpeft-a") == set()
    assert flags("adapt", "OUT/llara") == {"--passages 9"}
    assert all("hnsw" in step for step in steps if step[0] == "dense-index")
    assert all("float16" in step for step in steps if step[0] == "encode")


def test_the_rate_with_the_least_loss_on_dev_is_taken_for_all_seeds(study) -> None:
    """The stand-in's loss is the rate."""
    rates = {
        "METHODS": "lora qpeft-a-lora",
        "SEEDS": "0 1",
        "RATES": "0.01 0.003 0.03",
        "TRAIN": "--epochs 4",
    }
    steps = study("out", **rates)
    trained = {step[step.index("--output") + 1]: step for step in steps if step[0] == "train"}
    tried = [f"OUT/rates/{m}.{r}" for m in ("lora", "qpeft-a-lora") for r in ("0.01", "0.003", "0.03")]
    seeds = ["OUT/adapter.lora.seed1", "OUT/adapter.qpeft-a-lora.seed1"]
    assert sorted(trained) == sorted([*tried, *seeds]), "seed 0 is the trial that was best"
    for output, step in trained.items():
        assert step[step.index("--seed") + 1] == ("1" if output in seeds else "0")
        assert "--epochs 4" in " ".join(step)
        rate = "0.003" if output in seeds else output.partition(".")[2]
        assert step[step.index("--learning-rate") + 1] == rate
        if "qpeft-a-lora" in output:
            folder = "adapter.lora.seed1" if output in seeds else "adapter.lora"
            assert step[step.index("--lora") + 1] == f"OUT/{folder}/lora"
    reranked = [step for step in steps if step[0] == "rerank" and "OUT/adapter.lora" in step]
    assert [step[step.index("--output") + 1] for step in reranked] == ["OUT/run.small.lora.test.txt"]
    assert {step[0] for step in study("out", **rates)} == {"evaluate"}


def test_rates_may_be_spelled_otherwise_and_seed_0_need_not_be_asked_for(study, tmp_path: Path) -> None:
    steps = study("out", METHODS="lora qpeft-a-lora", SEEDS="1", RATES="1e-3 3e-3")
    trained = {step[step.index("--output") + 1]: step for step in steps if step[0] == "train"}
    step = trained["OUT/adapter.lora.seed1"]
    assert step[step.index("--learning-rate") + 1] == "1e-3"
    assert (tmp_path / "out" / "adapter.lora" / "training.json").exists(), "qpeft-a-lora's trials read it"
    assert not [name for name in made(steps) if name == "lora"]


def test_seeds_of_other_rates_are_not_mixed(study) -> None:
    study("out", METHODS="lora", RATES="0.01 0.003")
    steps = study("out", code=2, METHODS="lora", SEEDS="0 1", RATES="0.01 0.001")
    assert [step[step.index("--output") + 1] for step in steps] == ["OUT/rates/lora.0.001"]


def test_a_single_rate_is_taken_without_a_trial(study) -> None:
    steps = study("out", METHODS="lora qpeft-a", RATES_qpeft_a="0.003", TRAIN="--epochs 4")
    trained = [step for step in steps if step[0] == "train"]
    assert [step[step.index("--output") + 1] for step in trained] == [
        "OUT/adapter.lora",
        "OUT/adapter.qpeft-a",
    ]
    assert ["--learning-rate" in step for step in trained] == [False, True]
    assert "--epochs 4 --learning-rate 0.003" in " ".join(trained[1])


def test_a_second_call_only_measures_and_methods_can_be_added(study) -> None:
    small = {"METHODS": "qpeft-a", "TRAIN": FAMILY["TRAIN"]}
    first, again = study("out", **small), study("out", **small)
    assert {step[0] for step in again} == {"evaluate"}
    more = [step for step in study("out", **FAMILY) if step[0] != "evaluate"]
    assert not [step for step in more if step in first]
    whole = [step for step in study("whole", **FAMILY) if step[0] != "evaluate"]
    assert sorted([*(step for step in first if step[0] != "evaluate"), *more]) == sorted(whole)


def test_killed_at_every_step_it_takes_each_one_once(study) -> None:
    family = {**FAMILY, "METHODS": "qpeft-a", "ENCODERS": "llara-repllama", "RATES": "0.01 0.003"}
    whole = [step for step in study("whole", **family) if step[0] != "evaluate"]
    taken = []
    for _ in whole:
        taken += study("out", kill_at=2, **family)  # one step ends well, the next is killed
    assert taken == whole
    assert {step[0] for step in study("out", **family)} == {"evaluate"}


def test_folders_of_encoders_and_adapters_do_too(study, tmp_path: Path) -> None:
    (tmp_path / "mine" / "adapter.own").mkdir(parents=True)
    folders = {"ENCODERS": str(tmp_path / "mine" / "encoder"), "RERANKERS": f"{tmp_path}/mine/adapter.own"}
    steps = study("out", METHODS="", FIRST="dense hybrid", SEEDS="0 1", **folders)
    assert not [step for step in steps if step[0] == "train"]
    rows = ["encoder", "bm25+encoder", "encoder_own", "encoder+own", "bm25+encoder_own", "bm25+encoder+own"]
    assert sorted(made(steps)) == sorted([*rows, "bm25", "rm3", "hard-prompt", "bm25+hard-prompt"])
    saved = [step[step.index("--save") + 1] for step in steps if "--save" in step]
    assert len(set(saved)) == len(saved) == 4
