"""`qpeft train`: an adapter that `rerank` takes, and one line for everything that can be wrong."""

import json

import pytest

from qpeft_rerank.cli.__main__ import main


def train(*arguments, model):
    return main(["train", "run.txt", "-c", "small.toml", "--model", model, "--epochs", "1", *arguments])


@pytest.mark.slow
def test_train_makes_an_adapter_that_rerank_takes(collection, tiny_model, capsys):
    assert (
        train(
            "--dev-run", "run.txt", "--method", "qpeft-r", "--k", "3", "--output", "adapter", model=tiny_model
        )
        == 0
    )
    out, err = capsys.readouterr()
    assert out == "" and "epoch 1: loss" in err
    names = {p.name for p in (collection / "adapter").iterdir()}
    assert {
        "adapter_config.json",
        "adapter_model.safetensors",
        "training.json",
        "training.png",
        "run.dev.txt",
    } <= names
    assert main(["rerank", "run.txt", "-c", "small.toml", "--adapter", "adapter", "--output", "out.txt"]) == 0
    assert (collection / "out.txt").read_text().endswith(" qpeft-r\n")


def test_a_finished_training_is_left_as_it_is_by_resume(collection, tiny_model, capsys):
    assert train("--output", "adapter", model=tiny_model) == 0
    assert "epoch 0" not in capsys.readouterr().err, "nothing is measured then"
    before = {path.name: path.read_bytes() for path in (collection / "adapter").iterdir()}
    assert train("--output", "adapter", "--resume", model=tiny_model) == 0
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if "no --dev-run" not in line]
    assert out == "" and lines == ["qpeft train: adapter holds this finished training: nothing is left to do"]
    assert train("--output", "adapter", "--resume", "--seed", "1", model=tiny_model) == 2
    assert "training.seed differs from what the finished training" in capsys.readouterr().err
    assert train("--output", "adapter", model=tiny_model) == 2
    assert {path.name: path.read_bytes() for path in (collection / "adapter").iterdir()} == before


def test_train_says_what_it_skipped(collection, tiny_model, capsys):
    corpus = collection / "corpus.jsonl"
    lines = corpus.read_text().splitlines(keepends=True)
    corpus.write_text("".join(lines[1:]))
    assert train("--output", "adapter", model=tiny_model) == 2
    assert "is not in" in capsys.readouterr().err
    assert train("--output", "adapter", "--missing", "skip", model=tiny_model) == 0
    err = capsys.readouterr().err
    assert "skipped: passage" in err and "skipped 1 topics and 1 passages" in err, (
        "it was the only relevant one"
    )


WRONG_TRAIN = [
    (["--method", "hard-prompt"], "has nothing to train"),
    (["--method", "qpeft"], "is not one of"),
    (["--k", "0"], "k: 0"),
    (["--margin", "-1"], "argument --margin: -1"),
    (["--learning-rate", "fast"], "'fast' is not a number"),
    (["--filters", "digits"], "'digits' is not one of"),
    (["--qrels", "no.txt"], "no.txt"),
    (["--dev-run", "no.txt"], "no.txt"),
    (["--dev-run", "run.txt", "--dev-split", "other"], "there are train, dev, test"),
    (["--select", "ndgc"], "select: 'ndgc' is neither 'loss' nor a measure"),
    (["--select", "nDCG@10"], "select: there is no development run"),
    (["--seed", "100000000000"], "--seed: 100000000000 is above 4294967295"),
    (["--qrels", "empty.txt"], "empty.txt: the qrels are empty"),
    (["--dev-run", "empty.txt"], "empty.txt: the run is empty"),
]


@pytest.mark.parametrize("arguments, word", WRONG_TRAIN, ids=[" ".join(a) for a, _ in WRONG_TRAIN])
def test_a_wrong_train_is_an_error_and_makes_no_adapter(collection, tiny_model, capsys, arguments, word):
    (collection / "empty.txt").touch()
    assert train(*arguments, "--output", "adapter", model=tiny_model) == 2
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if line.startswith("qpeft train: error: ")]
    assert out == "" and len(errors) == 1 and word in errors[0] and "Traceback" not in err
    assert not (collection / "adapter" / "adapter_config.json").exists()


def test_an_output_that_cannot_be_is_said_before_the_model_is_loaded(collection, capsys):
    for output, word in (("run.txt", "run.txt is a file"), ("run.txt/adapter", "run.txt is a file")):
        assert train("--output", output, model="nowhere/model") == 2
        assert word in capsys.readouterr().err


def test_the_record_of_a_training_names_its_sources(collection, tiny_model):
    assert train("--output", "adapter", model=tiny_model) == 0
    assert json.loads((collection / "adapter" / "training.json").read_text())["settings"]["sources"] == {
        "run": "run.txt",
        "topics": "topics.tsv",
        "qrels": "qrels.txt",
        "passages": "corpus.jsonl",
        "collection": "small",
        "split": "train",
    }


@pytest.mark.parametrize("arguments, word", [(["--model", "x"], "--output"), (["--output", "x"], "--model")])
def test_train_says_what_it_needs(collection, capsys, arguments, word):
    assert main(["train", "run.txt", *arguments]) == 2
    assert word in capsys.readouterr().err


# ---- index and bm25 ----
