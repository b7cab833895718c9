"""Data frames as PyTerrier has them: every stage takes them, and reranking is a step of its pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qpeft_rerank import (
    Ranking,
    TrainingData,
    evaluate,
    fuse,
    rerank,
    rerank_frame,
    write_qrels,
    write_topics,
)
from qpeft_rerank.errors import InputError, MissingPassageError, MissingTopicError
from qpeft_rerank.passages import Passage
from qpeft_rerank.topics import as_topics
from qpeft_rerank.trec import as_qrels, as_rankings

pandas = pytest.importorskip("pandas")  # Pyserini brings it

ROWS = [  # not in their order; 007 stays text
    ("007", "bond", "b", 1.0, 1, "Gin", "short"),
    ("007", "bond", "a", 2.5, 0, "Ice", "a longer text"),
    ("1", "one", "c", -1.0, 0, None, "the longest text of all"),
    ("1", "one", "a", -2.0, 1, "Ice", "a longer text"),
    ("1", "one", "d", -3.0, 2, "", "mid text"),
]
FRAME = pandas.DataFrame(ROWS, columns=["qid", "query", "docno", "score", "rank", "title", "text"])
RANKINGS = [
    Ranking("007", [("a", 2.5), ("b", 1.0)]),
    Ranking("1", [("c", -1.0), ("a", -2.0), ("d", -3.0)]),
]
QRELS = pandas.DataFrame([("007", "b", 1), ("1", "a", 0), ("1", "d", 2)], columns=["qid", "docno", "label"])


class Shortest:
    """A scorer: the shorter title and text are, the better."""

    weight = 1.0

    def score(self, pairs: Sequence[tuple[str, Passage]], progress: Any = None) -> np.ndarray:
        return np.array([-len(p.title) - len(p.text) for _, p in pairs], dtype=np.float32)


class Texts:
    name = "texts"

    def get(self, docids: Sequence[str]) -> dict[str, Passage]:
        return {docid: Passage(docid, "", docid) for docid in docids}


def ranked(frame: Any) -> list[tuple[str, str, int]]:
    return list(frame[["qid", "docno", "rank"]].itertuples(index=False, name=None))


def test_a_frame_is_a_run_topics_or_qrels() -> None:
    assert list(as_rankings(FRAME)) == RANKINGS
    assert as_topics(FRAME) == {"007": "bond", "1": "one"}
    assert as_qrels(QRELS) == {"007": {"b": 1}, "1": {"a": 0, "d": 2}}


def test_every_stage_takes_a_frame_as_it_takes_rankings() -> None:
    qrels = {"007": {"b": 1}, "1": {"a": 0, "d": 2}}
    assert evaluate(FRAME, QRELS).per_topic == evaluate(RANKINGS, qrels).per_topic
    assert list(fuse([FRAME, FRAME])) == list(fuse([RANKINGS, RANKINGS]))
    given = rerank(FRAME, FRAME, Texts(), Shortest())
    assert list(given) == list(rerank(RANKINGS, {"007": "bond", "1": "one"}, Texts(), Shortest()))
    data = TrainingData(FRAME, FRAME, QRELS)
    assert list(data.run) == list(data.run) == RANKINGS


def test_reranking_gives_the_rows_in_their_new_order() -> None:
    result = rerank_frame(FRAME, Shortest())
    assert ranked(result) == [("007", "b", 0), ("007", "a", 1), ("1", "d", 0), ("1", "a", 1), ("1", "c", 2)]
    assert result["score"].tolist() == [-8.0, -16.0, -8.0, -16.0, -23.0]
    assert result["query"].tolist() == ["bond", "bond", "one", "one", "one"]
    assert result["title"].tolist()[:4] == ["Gin", "Ice", "", "Ice"]
    assert list(result.index) == list(range(5))
    assert list(result.columns) == list(FRAME.columns)
    assert FRAME["score"].tolist() == [row[3] for row in ROWS], "the given frame is left alone"


def test_what_lies_below_the_depth_keeps_its_order() -> None:
    result = rerank_frame(FRAME, Shortest(), depth=2)
    assert ranked(result)[2:] == [("1", "a", 0), ("1", "c", 1), ("1", "d", 2)]
    assert all(scores.is_monotonic_decreasing for _, scores in result.groupby("qid")["score"])


def test_the_first_stage_weighs_in_as_in_the_rerank_stage() -> None:
    given = list(rerank_frame(FRAME, Shortest(), weight=0.5)[["qid", "docno", "score"]].values.tolist())
    texts = {docno: Passage(docno, title or "", text) for _, _, docno, _, _, title, text in ROWS}

    class Found(Texts):
        def get(self, docids: Sequence[str]) -> dict[str, Passage]:
            return {docid: texts[docid] for docid in docids}

    scorer = Shortest()
    scorer.weight = 0.5
    own = rerank_frame(FRAME, scorer)[["qid", "docno", "score"]].values.tolist()
    assert own == given, "the scorer's own weight, where none is given"
    stage = rerank(FRAME, FRAME, Found(), Shortest(), weight=0.5)
    assert given == [[qid, docid, score] for qid, docs in stage for docid, score in docs]


def test_without_first_scores_the_order_of_rows_counts_and_the_model_ranks() -> None:
    unscored = FRAME.drop(columns=["score", "rank", "title"])
    scorer = Shortest()
    scorer.weight = 0.5
    result = rerank_frame(unscored, scorer, depth=1)
    assert ranked(result) == [("007", "b", 0), ("007", "a", 1), ("1", "c", 0), ("1", "a", 1), ("1", "d", 2)]
    assert result["score"].tolist()[0] == -5.0
    with pytest.raises(
        InputError, match="weight: 0.5 needs the first stage's scores, and there is no column"
    ):
        rerank_frame(unscored, scorer, weight=0.5)


def test_rows_may_lie_in_any_order_under_any_label_and_text_in_any_column() -> None:
    columns = {"title": "head", "text": "body"}
    mixed = FRAME.rename(columns=columns).iloc[[2, 0, 4, 1, 3]]
    mixed.index = ["x", "x", "y", "y", "y"]
    seen: list[int] = []

    class Told(Shortest):
        def score(self, pairs: Sequence[tuple[str, Passage]], progress: Any = None) -> np.ndarray:
            progress(len(pairs))
            return super().score(pairs)

    result = rerank_frame(mixed, Told(), text="body", title="head", progress=seen.append)
    assert ranked(result) == [("1", "d", 0), ("1", "a", 1), ("1", "c", 2), ("007", "b", 0), ("007", "a", 1)]
    assert result["body"].tolist()[:2] == ["mid text", "a longer text"]
    assert sum(seen) == 5


@pytest.mark.parametrize("kind", ["string", "category", object])
def test_ids_may_be_texts_of_any_kind(kind: Any) -> None:
    frame = FRAME.astype({"qid": kind, "docno": kind})
    assert list(as_rankings(frame)) == RANKINGS
    assert ranked(rerank_frame(frame, Shortest())) == ranked(rerank_frame(FRAME, Shortest()))


def test_a_column_may_be_called_as_a_method_of_files() -> None:
    assert evaluate(FRAME.assign(read=1), QRELS).per_topic == evaluate(FRAME, QRELS).per_topic


def test_topics_and_qrels_of_a_frame_are_written(tmp_path: Path) -> None:
    write_topics(FRAME, tmp_path / "topics.tsv")
    assert (tmp_path / "topics.tsv").read_text() == "007\tbond\n1\tone\n"
    write_qrels(QRELS.astype({"label": float}), tmp_path / "qrels.txt")
    assert (tmp_path / "qrels.txt").read_text() == "007 0 b 1\n1 0 a 0\n1 0 d 2\n"


def test_a_frame_is_no_source_of_passages() -> None:
    with pytest.raises(InputError, match="passages: open them with open_passages"):
        list(rerank(FRAME, FRAME, FRAME, Shortest()))


def test_an_empty_frame_tells_the_columns() -> None:
    result = rerank_frame(FRAME.iloc[:0].drop(columns=["score", "rank"]), Shortest())
    assert list(result.columns) == ["qid", "query", "docno", "title", "text", "score", "rank"]
    assert (str(result["score"].dtype), str(result["rank"].dtype)) == ("float64", "int64")


def test_a_row_without_text_or_query_is_an_error_or_left_where_it_is() -> None:
    no_text = FRAME.assign(text=[None, "a longer text", float("nan"), "a longer text", "mid text"])
    with pytest.raises(
        MissingPassageError, match="'b' .candidate of topic '007'. is not in the column 'text'"
    ):
        rerank_frame(no_text, Shortest())
    missed: list[str] = []
    result = rerank_frame(no_text, Shortest(), missing="skip", on_missing=lambda e: missed.append(e.docid))
    assert ranked(result) == [("007", "a", 0), ("007", "b", 1), ("1", "d", 0), ("1", "a", 1), ("1", "c", 2)]
    assert missed == ["b", "c"]
    with pytest.raises(MissingTopicError, match="topic '007' of the run has no text in the topics"):
        rerank_frame(FRAME.assign(query=[None, None, "one", "one", "one"]), Shortest())


@pytest.mark.parametrize(
    "frame, message",
    [
        (
            FRAME.drop(columns=["docno"]),
            "run: the frame has no column 'docno'; it has: qid, query, score, rank",
        ),
        (FRAME.drop(columns=["text"]), "the frame has no column 'text'"),
        (FRAME.drop(columns=["query"]), "topics: the frame has no column 'query'"),
        (
            FRAME.assign(qid=[7, 7, 1, 1, 1]),
            r"the column 'qid' has 7, which is no text .ids are text: .* dtype=\{'qid': str\}\)",
        ),
        (FRAME.assign(docno=["a", "a", "c", "a", "d"]), "topic '007' has document 'a' twice"),
        (
            FRAME.assign(query=["bond", "James", "one", "one", "one"]),
            "topic '007' has two queries: 'bond' and",
        ),
        (
            FRAME.assign(text=["short", "text", "text", "other", "mid"]),
            "passage 'a' has two texts .or titles. in the frame",
        ),
        (FRAME.assign(score=[1.0, float("nan"), 0.0, 0.0, 0.0]), "topic '007': the score of 'a' is nan"),
        (
            FRAME.assign(score=[1.0, None, "x", 0.0, 0.0]),
            "run: topic '007', 'a': the score None is no number",
        ),
        (
            FRAME.assign(score=pandas.array([1.0, 2.0, None, 0.0, 0.0], dtype="Float64")),
            "run: topic '1', 'c': the score <NA> is no number",
        ),
        (
            pandas.concat([FRAME, FRAME[["qid"]]], axis=1),
            "run: the frame has more than one column 'qid'",
        ),
        (FRAME.assign(query=1984), "topics: topic '007': the query 1984 is no text"),
    ],
)
def test_a_frame_that_cannot_be_used_is_a_clear_error(frame: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rerank_frame(frame, Shortest())


def test_wrong_qrels_are_a_clear_error() -> None:
    with pytest.raises(InputError, match="qrels: topic '007' has document 'b' twice with two grades"):
        as_qrels(pandas.concat([QRELS, QRELS.assign(label=[2, 0, 2])]))
    assert as_qrels(pandas.concat([QRELS, QRELS])) == as_qrels(QRELS)
    missing = QRELS.assign(label=pandas.array([None, 0, 2], dtype="Int64"))
    with pytest.raises(InputError, match="qrels: topic '007', 'b': the label <NA> is no number"):
        as_qrels(pandas.concat([QRELS, missing]))
    with pytest.raises(InputError, match="qrels: topic '007', 'b': nan is not a whole number"):
        evaluate(FRAME, QRELS.assign(label=[float("nan"), 0.0, 2.0]))
