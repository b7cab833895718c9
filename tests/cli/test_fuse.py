"""`qpeft fuse`: what it writes, what it says of weights, and one line for everything that can be wrong."""

import io
import json

import pytest

from qpeft_rerank.cli.__main__ import main
from qpeft_rerank.trec import load_run

GOOD = {"1": "a b c", "2": "b a d", "3": "d e a", "007": "c b a"}  # the relevant passage first
BAD = {"1": "c a h", "2": "h b", "3": "a d", "007": "h c"}


@pytest.fixture
def runs(collection):
    """good.txt and bad.txt beside the collection; good.txt has the relevant passages first."""
    for name, rankings in (("good", GOOD), ("bad", BAD)):
        with (collection / f"{name}.txt").open("w") as run:
            for qid, docids in rankings.items():
                for rank, docid in enumerate(docids.split(), 1):
                    run.write(f"{qid} Q0 {docid} {rank} {9 - rank} {name}\n")
    return collection


def order(run, qid):
    return [doc.docid for doc in load_run(run)[qid].docs]


def test_two_runs_become_one(runs, capsys):
    assert main(["fuse", "good.txt", "bad.txt", "--output", "out.txt", "--hits", "3"]) == 0
    assert capsys.readouterr() == ("", "")
    assert order("out.txt", "1") == ["a", "c", "b"] and order("out.txt", "2") == ["b", "h", "a"]
    assert load_run("out.txt")["1"].docs[0].score == pytest.approx(1 / 61 + 1 / 62)
    assert (runs / "out.txt").read_text().endswith(" rrf\n")


def test_one_run_may_come_through_a_pipe(runs, capsys, monkeypatch):
    flags = ["--method", "interpolation", "--normalize", "none", "--weights", "0.2,0.8", "--runtag", "mine"]
    assert main(["fuse", "good.txt", "bad.txt", *flags, "--output", "out.txt"]) == 0
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper((runs / "bad.txt").open("rb")))
    assert main(["fuse", "good.txt", "-", *flags]) == 0
    assert capsys.readouterr().out == (runs / "out.txt").read_text()


def test_topics_that_a_run_lacks_are_kept_and_said(runs, capsys):
    (runs / "part.txt").write_text("1 Q0 a 1 2.0 part\n3 Q0 a 1 2.0 part\n9 Q0 a 1 2.0 part\n")
    assert main(["fuse", "good.txt", "bad.txt", "part.txt", "--output", "out.txt"]) == 0
    said = "qpeft fuse: 3 of 5 topics are not in all 3 runs: '007', '2', '9'\n"
    assert capsys.readouterr() == ("", said)
    assert set(load_run("out.txt")) == {*GOOD, "9"}


def test_weights_are_tuned_said_saved_and_used_again(runs, capsys):
    tune = [
        "fuse",
        "bad.txt",
        "good.txt",
        "--method",
        "interpolation",
        "-c",
        "small.toml",
        "--tune",
        "-m",
        "RR@10",
    ]
    assert main([*tune, "--save", "w.json", "--output", "tuned.txt"]) == 0
    out, err = capsys.readouterr()
    said = err.splitlines()
    assert out == "" and len(said) == 22
    assert said[0] == "qpeft fuse: weights 0,1: RR@10 1.0000"
    assert said[-1].startswith("qpeft fuse: chosen of 21: weights 0.") and "RR@10 1.0000" in said[-1]
    saved = json.loads((runs / "w.json").read_text())
    assert saved["settings"]["method"] == "interpolation" and saved["runs"] == ["bad.txt", "good.txt"]
    assert saved["qrels"] == "qrels.txt" and saved["settings"]["weights"][0] < 0.5
    assert main(["fuse", "bad.txt", "good.txt", "--weights", "w.json", "--output", "again.txt"]) == 0
    assert (runs / "again.txt").read_bytes() == (runs / "tuned.txt").read_bytes()
    assert capsys.readouterr().err == ""
    typed = ",".join(map(str, saved["settings"]["weights"]))
    assert main(["fuse", "bad.txt", "good.txt", "--method", "interpolation", "--weights", typed]) == 0
    assert capsys.readouterr().out == (runs / "tuned.txt").read_text()


def test_a_search_over_three_runs_says_only_what_is_better(runs, capsys):
    assert main(["fuse", "bad.txt", "good.txt", "run.txt", "--tune", "--qrels", "qrels.txt", "-m", "AP"]) == 0
    out, err = capsys.readouterr()
    values = [float(line.split()[-1]) for line in err.splitlines()[:-1]]
    assert 1 <= len(values) < 20 and values == sorted(values)
    assert len(out.splitlines()) == 4 * 8


WRONG = [
    ([], "no runs given: name two or more"),
    (["good.txt"], "1 run given: name two or more"),
    (["good.txt", "no.txt"], "no.txt"),
    (["good.txt", "empty.txt"], "run 2 of 2 is empty"),
    (["good.txt", "other.txt"], "no topic in common"),
    (["good.txt", "five.txt"], "five.txt:1"),
    (["-", "-"], "can be read once only"),
    (["good.txt", "bad.txt", "--method", "sum"], "'sum' is not one of rrf, interpolation"),
    (["good.txt", "bad.txt", "--normalize", "none"], "--normalize is for --method interpolation"),
    (["good.txt", "bad.txt", "--method", "interpolation", "--rrf-k", "9"], "--rrf-k is for --method rrf"),
    (["good.txt", "bad.txt", "--weights", "1,2,3"], "3 weights for 2 runs"),
    (["good.txt", "bad.txt", "--weights", "1,-2"], "weights: -2.0 is below 0"),
    (["good.txt", "bad.txt", "--weights", "w.json"], "w.json"),
    (["good.txt", "bad.txt", "--weights", "ok.json", "--rrf-k", "3"], "--rrf-k and --weights ok.json"),
    (["good.txt", "bad.txt", "--weights", "1,2", "--tune"], "--tune and --weights"),
    (["good.txt", "bad.txt", "--tune"], "no qrels given"),
    (["good.txt", "bad.txt", "--tune", "--qrels", "no.qrels"], "no.qrels"),
    (["good.txt", "bad.txt", "--tune", "-c", "small.toml", "-m", "best"], "unknown measure 'best'"),
    (["good.txt", "bad.txt", "--tune", "-c", "small.toml", "--save", "no/w.json"], "there is no folder no"),
    (["good.txt", "bad.txt", "-c", "small.toml"], "--collection is for tuning weights: give --tune too"),
    (["good.txt", "bad.txt", "--save", "w.json"], "--save is for tuning weights"),
    (["good.txt", "bad.txt", "--output", "no/out.txt"], "there is no folder no"),
    (["good.txt", "bad.txt", "--depth", "0"], "--depth: 0 is below 1"),
]


@pytest.mark.parametrize("arguments, word", WRONG, ids=[" ".join(a) for a, _ in WRONG])
def test_a_wrong_fuse_is_one_line_and_no_run(runs, capsys, arguments, word):
    (runs / "empty.txt").write_text("\n")
    (runs / "other.txt").write_text("9 Q0 a 1 2.0 tag\n")
    (runs / "five.txt").write_text("1 Q0 a 1 2.0\n")
    (runs / "ok.json").write_text('{"settings": {"weights": [1, 2]}}')
    arguments = arguments if "--output" in arguments else [*arguments, "--output", "out.txt"]
    assert main(["fuse", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1 and err.startswith("qpeft fuse: error: ") and word in err
    assert not (runs / "out.txt").exists()
