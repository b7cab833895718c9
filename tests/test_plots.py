"""Pictures are written whole, in the kind the path asks for, or not at all."""

import builtins
import os

import pytest

from qpeft_rerank.errors import DependencyError, InputError
from qpeft_rerank.evaluation import Evaluation
from qpeft_rerank.plots import measures_by_cutoff, plot_cutoffs, plot_topic_differences, plot_training

RECORD = {
    "epochs": [
        {"epoch": 1, "train_loss": 2.5, "dev_loss": 2.4, "dev": {"nDCG@10": 0.5, "RR@10": 0.4}},
        {"epoch": 2, "train_loss": 2.1, "dev_loss": None, "dev": {"nDCG@10": 0.6}},
        {"epoch": 3, "train_loss": 2.0, "dev_loss": 2.3},
    ],
    "best_epoch": 2,
}
HEADS = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}


def evaluation(name, values):
    per_topic = {f"q{i}": {"nDCG@10": value} for i, value in enumerate(values)}
    return Evaluation(
        name, ("nDCG@10",), per_topic, {"nDCG@10": sum(values) / len(values)}, len(values), len(values), 0
    )


BM25, QPEFT = evaluation("bm25_$x$", [0.1, 0.5, 0.9]), evaluation("q", [0.4, 0.5, 0.6])


@pytest.mark.parametrize("kind", HEADS)
def test_topic_differences_are_drawn(tmp_path, kind):
    plot_topic_differences(BM25, QPEFT, "nDCG@10", tmp_path / f"picture.{kind}")
    assert (tmp_path / f"picture.{kind}").read_bytes().startswith(HEADS[kind])
    assert os.listdir(tmp_path) == [f"picture.{kind}"]


def test_measures_are_drawn_by_cutoff(tmp_path):
    names = ("R@20", "R@5", "nDCG@10", "success.1", "success.5")
    assert {name: [m.cutoff for m in own] for name, own in measures_by_cutoff(names).items()} == {
        "R": [5, 20],
        "success": [1, 5],
    }
    runs = [
        Evaluation(name, names, {"1": dict.fromkeys(names, 0.5)}, dict.fromkeys(names, 0.5), 1, 1, 0)
        for name in ("one_$x$", "two")
    ]
    plot_cutoffs(runs, tmp_path / "picture.svg")
    assert (tmp_path / "picture.svg").read_bytes().startswith(HEADS["svg"])
    with pytest.raises(InputError, match=r"'one_\$x\$' and 'q' have other measures"):
        plot_cutoffs([runs[0], QPEFT], tmp_path / "picture.svg")
    with pytest.raises(InputError, match="no measure has two cutoffs"):
        plot_cutoffs([BM25, QPEFT], tmp_path / "picture.svg")


@pytest.mark.parametrize(
    "record",
    [
        RECORD,
        {**RECORD, "best_epoch": None},
        {"epochs": [{"epoch": 1, "train_loss": 2.5}]},
        {"epochs": [{"epoch": 1, "dev": {"RR@10": 0.5}}]},
    ],
)
def test_training_curves_are_drawn_from_what_the_record_has(tmp_path, record):
    plot_training(record, str(tmp_path / "curves.png"))
    assert (tmp_path / "curves.png").read_bytes().startswith(HEADS["png"])


@pytest.mark.parametrize("record", [{}, {"epochs": []}, {"epochs": [{"epoch": 1}]}])
def test_a_record_with_nothing_to_draw_is_an_error(tmp_path, record):
    with pytest.raises(InputError, match="to draw"):
        plot_training(record, tmp_path / "curves.png")


@pytest.mark.parametrize(
    "other, measure, message",
    [(QPEFT, "AP", "not evaluated by 'AP'"), (evaluation("c", [0.1]), "nDCG@10", "different topics")],
)
def test_runs_that_do_not_match_are_an_error(tmp_path, other, measure, message):
    with pytest.raises(InputError, match=message):
        plot_topic_differences(BM25, other, measure, tmp_path / "picture.png")


@pytest.mark.parametrize(
    "name, message", [("picture.docx", "png, pdf or svg"), ("none/picture.png", "does not exist")]
)
def test_a_path_that_cannot_be_written_is_an_error(tmp_path, name, message):
    with pytest.raises(InputError, match=message):
        plot_training(RECORD, tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_a_failed_write_leaves_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        plot_training(RECORD, path)
    assert os.listdir(tmp_path) == ["picture.png"] and path.read_bytes() == b"old"


def test_a_folder_without_permission_is_an_error(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(InputError, match="curves.png: no permission to write in"):
        plot_training(RECORD, tmp_path / "curves.png")
    assert os.listdir(tmp_path) == []


def test_without_matplotlib_the_message_says_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(DependencyError, match="pip install matplotlib"):
        plot_training(RECORD, tmp_path / "curves.png")


def test_nothing_cannot_be_drawn(tmp_path) -> None:
    with pytest.raises(InputError, match="no evaluation"):
        plot_cutoffs([], tmp_path / "none.png")
