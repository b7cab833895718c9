"""Runs in the forms that other tools hold them in: pairs, and dictionaries as pytrec_eval has them."""

from __future__ import annotations

import pytest

from qpeft_rerank.errors import InputError
from qpeft_rerank.evaluation import evaluate
from qpeft_rerank.fusion import fuse
from qpeft_rerank.passages import Passage
from qpeft_rerank.rankings import Ranking, ScoredDoc, as_ranking
from qpeft_rerank.reranking import rerank
from qpeft_rerank.training.data import TrainingData
from qpeft_rerank.trec import as_rankings, load_run, read_run, write_run

# Not in their order; "b" and "c" are equal, and then trec_eval takes the greater docid first.
SCORES = {"q1": {"a": 1, "b": 2.5, "c": 2.5}, "q2": {"c": -1.0}}
RANKINGS = [
    Ranking("q1", [ScoredDoc("c", 2.5), ScoredDoc("b", 2.5), ScoredDoc("a", 1.0)]),
    Ranking("q2", [ScoredDoc("c", -1.0)]),
]
QRELS = {"q1": {"b": 1, "a": 0}, "q2": {"c": 1}}


class Lengths:
    """A scorer and the passages: the longer the better."""

    name, weight = "lengths", 1.0

    def get(self, docids):
        return {docid: Passage(docid, "", "word " * ord(docid)) for docid in docids}

    def score(self, pairs, progress=None):
        return [float(len(passage.text)) for _, passage in pairs]


def test_a_dictionary_of_scores_is_a_run_in_trec_evals_order(tmp_path):
    assert list(as_rankings(SCORES)) == RANKINGS
    write_run(SCORES, tmp_path / "run.txt", "tag")
    assert [[d.docid for d in r.docs] for r in read_run(tmp_path / "run.txt")] == [["c", "b", "a"], ["c"]]


@pytest.mark.parametrize(
    "run",
    [SCORES, {r.qid: r for r in RANKINGS}, {r.qid: tuple(r) for r in RANKINGS}],
    ids=["scores", "rankings", "pairs"],
)
def test_every_stage_takes_a_dictionary_as_it_takes_rankings(run):
    topics = {"q1": "one", "q2": "two"}
    assert list(fuse([run, run])) == list(fuse([RANKINGS, RANKINGS]))
    assert list(rerank(run, topics, Lengths(), Lengths())) == list(
        rerank(RANKINGS, topics, Lengths(), Lengths())
    )
    assert evaluate(run, QRELS).per_topic == evaluate(RANKINGS, QRELS).per_topic
    data = TrainingData(run, topics, QRELS)
    assert list(data.run) == list(data.run) == RANKINGS


def test_what_load_run_gives_is_a_run(tmp_path):
    write_run(RANKINGS, tmp_path / "run.txt", "tag")
    assert list(as_rankings(load_run(tmp_path / "run.txt"))) == list(read_run(tmp_path / "run.txt"))


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"q1": {"a": "high"}}, "run: expected rankings|topic 'q1' has a score that is no number"),
        ({"q1": {"a": float("nan")}}, "topic 'q1'.* (is nan|not a finite)"),
        ({"q1": {"a": 1.0, 1: 1.0}}, "topic 'q1' has an id that is not text"),
        ({"q1": 3}, "run: expected rankings"),
        ({"q1": ["a", "b"]}, "run: expected rankings"),
        ({"q1": [ScoredDoc("a", 1.0)]}, "run: expected rankings"),
        ({"q1": Ranking("q2", [ScoredDoc("a", 1.0)])}, "topic 'q1' has the ranking of topic 'q2'"),
    ],
)
def test_a_dictionary_of_something_else_is_told(run, message):
    stages = (lambda: list(as_rankings(run)), lambda: list(fuse([run, run])), lambda: evaluate(run, QRELS))
    for stage in stages:
        with pytest.raises(InputError, match=message):
            stage()


def test_a_ranking_of_plain_pairs_is_written_and_fused_as_one_of_scored_docs(tmp_path):
    plain = [Ranking("1", [("a", 2), ("b", 1.5)])]
    scored = [Ranking("1", [ScoredDoc("a", 2.0), ScoredDoc("b", 1.5)])]
    assert as_ranking(plain[0]) == scored[0] and type(as_ranking(plain[0]).docs[0]) is ScoredDoc
    assert as_ranking(scored[0]) is scored[0]
    write_run(plain, tmp_path / "run.txt", "tag")
    assert list(read_run(tmp_path / "run.txt")) == scored
    assert list(fuse([plain, plain])) == list(fuse([scored, scored]))
    for docs in (["a"], [("a", "high")], [("a", 1.0, 2.0)], 3):
        with pytest.raises(InputError, match="^run: expected rankings"):
            as_ranking(Ranking("1", docs))


@pytest.mark.parametrize(
    "run", [[(1, [("a", 1.0)])], [("1", [(7, 1.0)])], [Ranking("1", [ScoredDoc(7, 1.0)])]]
)
def test_an_id_that_is_no_text_is_an_error(run, tmp_path):
    with pytest.raises(InputError, match="run: topic '?1'? has an id that is not text: [17]"):
        write_run(run, tmp_path / "run.txt", "tag")


def test_a_topic_that_comes_twice_is_an_error_in_every_stage(tmp_path):
    twice = [*RANKINGS, RANKINGS[0]]
    for use in (
        lambda: write_run(twice, tmp_path / "run.txt", "tag"),
        lambda: list(rerank(twice, {"q1": "one", "q2": "two"}, Lengths(), Lengths())),
        lambda: list(TrainingData(twice, {"q1": "one"}, QRELS).run),
        lambda: evaluate(twice, QRELS),
        lambda: list(fuse([RANKINGS, twice])),
    ):
        with pytest.raises(InputError, match="topic 'q1' comes twice in (the run|run 2 of 2)"):
            use()
    assert not (tmp_path / "run.txt").exists()
