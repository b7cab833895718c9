"""Long documents: windows leave no word out, and a run of windows becomes a run of documents."""

from __future__ import annotations

import doctest
import io
import json
import random

import pytest

from qpeft_rerank import documents
from qpeft_rerank.corpora import parse_json
from qpeft_rerank.documents import cut, cut_corpus, document_run, document_score
from qpeft_rerank.errors import InputError
from qpeft_rerank.passages import Passage
from qpeft_rerank.trec import Ranking, ScoredDoc


def document(words: int) -> Passage:
    return Passage("D1", "Title", " ".join(f"w{n}" for n in range(words)))


def numbers(part: Passage) -> list[int]:
    return [int(word[1:]) for word in part.text.split()]


# ---- cutting ----


@pytest.mark.parametrize("words", [1, 7, 8, 9, 10, 11, 12, 13, 29, 100])
@pytest.mark.parametrize("window, stride", [(8, 4), (8, 8), (8, 1), (8, 3), (1, 1)])
def test_windows_overlap_as_asked_and_leave_no_word_out(words: int, window: int, stride: int) -> None:
    parts = cut(document(words), window, stride)
    assert [part.docid for part in parts] == [f"D1#{i}" for i in range(len(parts))]
    assert {part.title for part in parts} == {"Title"}
    for i, part in enumerate(parts):
        start = i * stride
        assert numbers(part) == list(range(start, min(start + window, words)))
    ends = [numbers(part)[-1] for part in parts]
    assert ends[-1] == words - 1, "the last word is in the last window"
    assert ends[:-1] == sorted(set(ends[:-1])) and words - 1 not in ends[:-1], "and in no other one"


def test_by_default_a_window_begins_every_half_window() -> None:
    assert [numbers(part)[0] for part in cut(document(300), 150)] == [0, 75, 150]
    assert len(cut(document(3), 1)) == 3


def test_a_text_that_fits_stays_as_it_is_and_white_space_within_windows_too() -> None:
    text = "  one\ttwo\n\nthree  four "
    assert [part.text for part in cut(Passage("d", "", text), 4)] == [text]
    assert [part.text for part in cut(Passage("d", "", text), 3, 2)] == ["one\ttwo\n\nthree", "three  four"]
    assert cut(Passage("d", "Title", ""), 3) == [Passage("d#0", "Title", "")]


def test_impossible_windows_are_errors() -> None:
    for window, stride, word in ((0, None, "window: 0"), (5, 0, "stride: 0"), (5, 6, "leave out words")):
        with pytest.raises(InputError, match=word):
            cut(document(9), window, stride)


# ---- the score of a document ----


def test_scores_of_windows_make_one_of_the_document() -> None:
    scores = [2.0, 9.0, 4.0, 6.0]
    assert document_score(scores) == 9 and document_score(scores, "first") == 2
    assert document_score(scores, "mean", best=2) == 7.5 and document_score(scores, "mean", best=1) == 9
    assert document_score(scores, "mean", best=9) == 5.25, "fewer windows than asked for: all count"
    assert document_score([-3.0], "mean") == -3
    with pytest.raises(InputError, match="'sum' is not one of max, first, mean"):
        document_score(scores, "sum")
    with pytest.raises(InputError, match="best: 0"):
        document_score(scores, "mean", best=0)


# ---- runs ----

WINDOWS = Ranking(
    "7",
    [ScoredDoc(*item) for item in (("A#3", 9.0), ("B#10", 8.0), ("B#2", 7.0), ("A#0", 2.0), ("C#1", 1.0))],
)


def joined(*args: object, **kwargs: object) -> dict[str, float]:
    (found,) = document_run([WINDOWS], *args, **kwargs)
    assert found.qid == "7"
    return dict(found.docs)


def test_a_run_of_windows_becomes_one_of_documents() -> None:
    assert list(joined().items()) == [("A", 9), ("B", 8), ("C", 1)]
    assert list(joined("mean", 2).items()) == [("B", 7.5), ("A", 5.5), ("C", 1)]
    # By number, not by text: 2 is before 10.
    assert list(joined("first").items()) == [("B", 7), ("A", 2), ("C", 1)]
    assert list(joined(hits=2)) == ["A", "B"]


def test_random_runs_agree_with_a_plain_computation() -> None:
    draw = random.Random(3)
    docs = [ScoredDoc(f"d{n % 9}#{n // 9}", draw.random()) for n in range(60)]
    docs.sort(key=lambda doc: -doc.score)
    windows: dict[str, dict[int, float]] = {}
    for docid, score in docs:
        windows.setdefault(docid.split("#")[0], {})[int(docid.split("#")[1])] = score
    plain = {
        "max": {d: max(own.values()) for d, own in windows.items()},
        "first": {d: own[0] for d, own in windows.items()},
        "mean": {d: sum(sorted(own.values())[-3:]) / 3 for d, own in windows.items()},
    }
    for kind, expected in plain.items():
        (found,) = document_run([Ranking("1", docs)], kind)
        assert dict(found.docs) == pytest.approx(expected)
        assert [doc.docid for doc in found.docs] == sorted(expected, key=lambda d: -expected[d])  # noqa: B023


def test_ids_are_cut_at_the_last_separator_and_may_lack_it() -> None:
    run = [Ranking("1", [ScoredDoc("a#b#2", 3), ScoredDoc("whole", 2), ScoredDoc("a#b#1", 1)])]
    assert [list(r.docs) for r in document_run(run)] == [[("a#b", 3), ("whole", 2)]]
    segment = [Ranking("1", [ScoredDoc("doc_1-x", 3)])]
    assert [r.docs[0].docid for r in document_run(segment, separator="-")] == ["doc_1"]


def test_equal_documents_keep_the_order_of_their_windows() -> None:
    run = [Ranking("1", [ScoredDoc("b#1", 1.0), ScoredDoc("c#0", 1.0), ScoredDoc("a#0", 1.0)])]
    assert [doc.docid for doc in next(document_run(run)).docs] == ["b", "c", "a"]


def test_a_run_without_windows_is_an_error() -> None:
    with pytest.raises(InputError, match="no id of the run has the separator '-' .one is 'C#1'"):
        list(document_run([WINDOWS], separator="-"))
    with pytest.raises(InputError, match="topic '1': '#4' has no document's id"):
        list(document_run([Ranking("1", [ScoredDoc("#4", 1)])]))
    with pytest.raises(InputError, match="separator: it is empty"):
        list(document_run([WINDOWS], separator=""))


# ---- a corpus of windows ----


def test_a_corpus_of_windows_reads_back() -> None:
    out = io.StringIO()
    others = [Passage("é", "", "short"), Passage("D2", "Long title", document(9).text)]
    assert cut_corpus([document(10), *others], out, 6, 4) == (3, 5)
    lines = out.getvalue().splitlines()
    assert [parse_json(line) for line in lines] == [
        part for one in (document(10), *others) for part in cut(one, 6, 4)
    ]
    assert json.loads(lines[0])["contents"] == "Title\nw0 w1 w2 w3 w4 w5"
    with pytest.raises(InputError, match="white space"):
        cut_corpus([document(3)], out, 6, separator=" ")


def test_the_examples_hold() -> None:
    assert doctest.testmod(documents).failed == 0
