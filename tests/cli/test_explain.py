"""`qpeft explain`: what the model says of each token of the query, for people and for programs."""

import io
import json

import pytest

from qpeft_rerank.cli.__main__ import main
from qpeft_rerank.errors import InputError
from qpeft_rerank.explaining import explain_run
from qpeft_rerank.reranker import Reranker
from qpeft_rerank.trec import load_run


def explain(*arguments, model):
    return main(["explain", "-c", "small.toml", "--model", model, *arguments])


@pytest.fixture
def likelihoods(collection, tiny_model, capsys):
    """A run that holds the model's log-likelihoods."""
    rerank = ["rerank", "run.txt", "-c", "small.toml", "--model", tiny_model, "--dtype", "float32"]
    assert main([*rerank, "--weight", "1", "--output", "out.txt"]) == 0
    capsys.readouterr()
    return load_run("out.txt")


def test_the_tokens_of_a_query_make_the_score_of_the_run(likelihoods, tiny_model, capsys):
    assert explain("out.txt", "--depth", "2", "--json", "--dtype", "float32", model=tiny_model) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["qid"], one["rank"]) for one in lines] == [(q, r) for q in likelihoods for r in (1, 2)]
    for one in lines:
        doc = likelihoods[one["qid"]].docs[one["rank"] - 1]
        assert (one["docid"], one["score"]) == (doc.docid, doc.score)
        assert one["log_likelihood"] == pytest.approx(doc.score, abs=1e-4)
        values = [value for _, value in one["tokens"]]
        assert sum(values) / len(values) == pytest.approx(one["log_likelihood"]) and one["hints"] == []


def test_chosen_topics_are_shown_for_reading(likelihoods, tiny_model, capsys, monkeypatch, collection):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper((collection / "out.txt").open("rb")))
    assert explain("--qid", "3,1", "--depth", "1", model=tiny_model) == 0
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines() if line[:1].strip()] == ["1", "3"]
    for qid in ("1", "3"):
        assert f"   1  {likelihoods[qid].docs[0].docid}  score " in shown
    assert shown.count("      query   ") == 2 and "hints" not in shown


def test_where_a_passage_stood_in_the_first_stage_is_shown_when_asked_for(likelihoods, tiny_model, capsys):
    asked = ["out.txt", "--qid", "1,2", "--depth", "2", "--first-stage", "run.txt"]
    assert explain(*asked, "--json", model=tiny_model) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for one in lines:
        place = "abcdefgh".index(one["docid"]) + 1
        assert (one["first_stage_rank"], one["first_stage_score"]) == (place, 10.0 - place)
    assert explain(*asked, model=tiny_model) == 0
    shown = capsys.readouterr().out
    assert all(f"  first stage {one['first_stage_rank']}., " in shown for one in lines)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["run.txt", "--qid", "nowhere"], "topic 'nowhere' is not in the run"),
        (["run.txt", "--depth", "0"], "--depth"),
        (["run.txt", "--method", "qpeft-a"], "must be trained"),
        (["run.txt", "--topics", "none.tsv"], "topic '1' of the run is not in the topics"),
        (["odd.txt"], "passage 'nowhere'"),
        (["empty.txt"], "the run is empty"),
        (
            ["run.txt", "--first-stage", "odd.txt", "--qid", "2"],
            "topic '2' of the run is not in the first stage",
        ),
        (
            ["run.txt", "--topics", "-", "--first-stage", "-"],
            "the topics and the first stage cannot both come",
        ),
    ],
)
def test_what_is_wrong_is_said_in_a_line(collection, tiny_model, capsys, arguments, said):
    (collection / "none.tsv").write_text("50\tanother question\n")
    (collection / "odd.txt").write_text("1 Q0 nowhere 1 2.0 bm25\n")
    (collection / "empty.txt").write_text("")
    assert explain(*arguments, model=tiny_model) == 2
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1


def test_a_library_call_says_what_is_impossible(tiny_model):
    reranker = Reranker.from_model(tiny_model, device="cpu")
    with pytest.raises(InputError, match="depth: 0 is not at least 1"):
        list(explain_run([], {}, {}, reranker, depth=0))
