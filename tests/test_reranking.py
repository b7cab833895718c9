"""The rerank stage: every candidate comes out again, the scored ones in their new order, the others below."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from tiny_models import TEXTS, Corpus, corpus, tiny_base, tiny_scorer

from qpeft_rerank.errors import InputError, MissingPassageError, MissingTopicError, PairError, QpeftError
from qpeft_rerank.evaluation import evaluate
from qpeft_rerank.passages import Passage
from qpeft_rerank.reranker import Reranker
from qpeft_rerank.reranking import WINDOW_PAIRS, plan_window, rerank
from qpeft_rerank.trec import Ranking, ScoredDoc, write_run


class ByLength:
    """A scorer that needs no model: the longer the passage, the better. Keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[tuple[str, str]]] = []

    def score(
        self, pairs: Sequence[tuple[str, Passage]], progress: Callable[[int], None] | None = None
    ) -> np.ndarray:
        self.asked.append([(query, passage.docid) for query, passage in pairs])
        if progress is not None:
            progress(len(pairs))
        return np.array([len(passage.text) for _, passage in pairs], dtype=np.float32)


PASSAGES = corpus("x" * length for length in (5, 3, 9, 1, 7, 3))
TOPICS = {"1": "one", "2": "two", "007": "bond"}


def ranking(qid: str, docids: str, top: float = 10.0) -> Ranking:
    return Ranking(qid, [ScoredDoc(f"d{n}", top - i) for i, n in enumerate(docids)])


def order(found: Ranking) -> str:
    return "".join(docid.removeprefix("d") for docid, _ in found.docs)


def one(docids: str, **options: object) -> Ranking:
    return next(rerank([ranking("1", docids)], TOPICS, PASSAGES, ByLength(), **options))


def test_candidates_are_ordered_by_their_new_score() -> None:
    found = one("01234")
    assert order(found) == "24013" and [score for _, score in found.docs] == [9, 7, 5, 3, 1]


def test_scores_are_interpolated_with_the_first_stage() -> None:
    found = one("01234", weight=0.6)  # old 10 9 8 7 6, new 5 3 9 1 7
    old, new = np.arange(10.0, 5.0, -1), np.array([5.0, 3, 9, 1, 7])
    expected = 0.4 * (old - old.mean()) / old.std() + 0.6 * (new - new.mean()) / new.std()
    assert dict(found.docs) == {f"d{i}": pytest.approx(score, abs=1e-6) for i, score in enumerate(expected)}
    assert order(found) == "".join(str(i) for i in np.argsort(-expected)) != "01234"
    assert order(one("01234", weight=0.0)) == "01234" and one("01234", weight=1.0) == one("01234")


def test_below_the_depth_the_first_stage_alone_counts() -> None:
    found = one("301524", depth=3, weight=0.5)
    assert order(found)[3:] == "524" and sorted(order(found)[:3]) == ["0", "1", "3"]
    scores = [score for _, score in found.docs]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == 6


def test_a_scorer_brings_its_own_weight_which_another_one_overrides() -> None:
    scorer = ByLength()
    scorer.weight = 0.0
    assert order(next(rerank([ranking("1", "01234")], TOPICS, PASSAGES, scorer))) == "01234"
    assert order(next(rerank([ranking("1", "01234")], TOPICS, PASSAGES, scorer, weight=1.0))) == "24013"


@pytest.mark.parametrize("weight", [-0.1, 1.5, float("nan")])
def test_a_weight_that_is_no_share_is_an_error(weight: float) -> None:
    with pytest.raises(InputError, match="weight"):
        one("01", weight=weight)


def test_equal_scores_keep_the_old_order() -> None:
    assert order(one("1350")) == "0153" and order(one("5130")) == "0513"


def test_equal_scores_are_told_apart_in_memory_as_they_are_in_the_file(tmp_path: Path) -> None:
    found, qrels = one("15"), {"1": {"d1": 1}}  # by docid, d5 would be before d1
    write_run([found], tmp_path / "run.txt", tag="x")
    measures = [evaluate(run, qrels, ["RR"]).means["RR"] for run in ([found], tmp_path / "run.txt")]
    assert measures == [1.0, 1.0]


def test_below_the_depth_all_keep_their_order_under_the_scored_ones() -> None:
    found = one("301524", depth=3)
    assert order(found) == "013" + "524"
    scores = [score for _, score in found.docs]
    assert scores == sorted(set(scores), reverse=True) and len(scores) == 6
    assert order(one("301524", depth=1)) == "301524"


def test_what_was_not_scored_weighs_nothing_where_scores_are_normalised_later() -> None:
    deep = [ScoredDoc(f"d{n}", 9.0 - n) for n in range(6)] + [
        ScoredDoc(f"x{n}", -float(n)) for n in range(94)
    ]
    found = next(rerank([Ranking("1", deep)], TOPICS, PASSAGES, ByLength(), depth=6))
    scores = np.float32([score for _, score in found.docs])
    assert (np.diff(scores[5:]) < 0).all(), "told apart as float32, in order"
    assert order(found).startswith("240") and scores[5] - scores[-1] < 1e-4


def test_rankings_may_be_plain_pairs() -> None:
    found = next(rerank([("1", [("d0", 2.0), ("d2", 1)])], TOPICS, PASSAGES, ByLength()))
    assert order(found) == "20"
    for wrong in (["1"], [("1", ["d01"])], [("1", [("d0", "high")])], [3]):
        with pytest.raises(InputError, match="expected rankings"):
            list(rerank(wrong, TOPICS, PASSAGES, ByLength()))


def test_a_given_ranking_may_have_plain_pairs_but_finite_scores_alone() -> None:
    given = [Ranking("1", [("d0", 2.0), ("d2", 1)])]
    assert order(next(rerank(given, TOPICS, PASSAGES, ByLength(), weight=0.9))) == "20"
    for score in (float("nan"), float("inf")):
        for docs in ([("d0", 2.0), ("d2", score)], [ScoredDoc("d0", 2.0), ScoredDoc("d2", score)]):
            with pytest.raises(InputError, match="^topic '1': the score of 'd2' is (nan|inf), not a finite"):
                list(rerank([Ranking("1", docs)], TOPICS, PASSAGES, ByLength(), weight=0.5))


def test_a_scorer_sees_only_what_the_depth_allows() -> None:
    scorer = ByLength()
    list(rerank([ranking("1", "012"), ranking("007", "345")], TOPICS, PASSAGES, scorer, depth=2))
    assert scorer.asked == [[("one", "d0"), ("one", "d1"), ("bond", "d3"), ("bond", "d4")]]


def test_a_missing_topic_or_passage_stops_with_its_name() -> None:
    with pytest.raises(MissingTopicError, match="'9'"):
        list(rerank([ranking("9", "01")], TOPICS, PASSAGES, ByLength()))
    with pytest.raises(MissingPassageError, match="'d8'.*'1'.*the test's corpus"):
        list(rerank([ranking("1", "018")], TOPICS, PASSAGES, ByLength()))


def test_skipping_loses_nothing_and_tells_of_each() -> None:
    heard: list[QpeftError] = []
    rankings = [ranking("1", "8092"), ranking("9", "210"), ranking("2", "98"), ranking("007", "12")]
    found = list(rerank(rankings, TOPICS, PASSAGES, ByLength(), missing="skip", on_missing=heard.append))
    assert [order(r) for r in found] == ["2089", "210", "98", "21"] and [r.qid for r in found] == [
        "1",
        "9",
        "2",
        "007",
    ]
    assert found[1] == rankings[1] and found[2] == rankings[2], (
        "nothing was scored there: all stays as it was"
    )
    assert [type(error) for error in heard].count(MissingTopicError) == 1 and len(heard) == 5
    assert list(rerank(rankings, TOPICS, PASSAGES, ByLength(), missing="skip")) == found


def test_a_blank_topic_is_one_without_text() -> None:
    rankings, topics = [ranking("1", "012"), ranking("2", "012")], TOPICS | {"2": " \t"}
    with pytest.raises(MissingTopicError, match="topic '2' of the run has no text in the topics"):
        list(rerank(rankings, topics, PASSAGES, ByLength()))
    heard: list[QpeftError] = []
    found = list(rerank(rankings, topics, PASSAGES, ByLength(), missing="skip", on_missing=heard.append))
    assert order(found[0]) == "201" and found[1] == rankings[1]
    assert [(type(error), error.qid) for error in heard] == [(MissingTopicError, "2")]


def test_an_empty_run_and_nonsense_settings_are_errors() -> None:
    with pytest.raises(InputError, match="empty"):
        list(rerank([], TOPICS, PASSAGES, ByLength()))
    with pytest.raises(InputError, match="depth"):
        one("01", depth=0)
    with pytest.raises(InputError, match="^window: 0 is not at least 1$"):
        one("01", window=0)
    with pytest.raises(InputError, match="missing"):
        one("01", missing="ignore")


@pytest.mark.parametrize("window", [1, 10])
def test_a_topic_that_returns_is_an_error(window: int) -> None:
    twice = [ranking("1", "01"), ranking("2", "01"), ranking("1", "23")]
    with pytest.raises(InputError, match="topic '1' comes twice"):
        list(rerank(twice, TOPICS, PASSAGES, ByLength(), window=window))


def test_a_run_is_read_as_it_is_needed() -> None:
    read: list[int] = []

    def run() -> Iterator[Ranking]:
        for i in range(50):
            read.append(i)
            yield Ranking(str(i), [ScoredDoc("d0", 2.0), ScoredDoc("d1", 1.0)])

    stage = rerank(run(), {str(i): "what" for i in range(50)}, PASSAGES, ByLength(), window=4)
    for topic in range(20):
        next(stage)
        assert len(read) <= topic + 8, "the window at hand and the next"


def test_topics_that_share_candidates_are_scored_together_and_others_in_small_windows() -> None:
    class Sharing(ByLength):
        shared_pairs = 32_000

    shared, _ = plan_window([ranking("1", "0123")] * 20, 100, Sharing(), PASSAGES)
    alone, rankings = plan_window(
        iter([Ranking(str(q), [ScoredDoc(f"{q}-{d}", -d) for d in range(100)]) for q in range(20)]),
        100,
        Sharing(),
        PASSAGES,
    )
    assert alone == WINDOW_PAIRS // 100 and shared > 10 * alone
    assert len(list(rankings)) == 20, "what was looked at is put back"


def test_windows_do_not_change_the_result() -> None:
    scorer = Reranker(tiny_scorer(tiny_base(), "qpeft-a"))
    passages = corpus(TEXTS)
    run = [ranking(qid, docids) for qid, docids in (("1", "012345"), ("2", "54321"), ("007", "30"))]
    whole, single = (list(rerank(run, TOPICS, passages, scorer, window=w)) for w in (10, 1))
    assert [order(r) for r in whole] == [order(r) for r in single]
    for a, b in zip(whole, single, strict=True):
        assert np.allclose([d.score for d in a.docs], [d.score for d in b.docs], atol=1e-4)


def test_a_pair_that_cannot_be_scored_is_named_by_topic_and_passage() -> None:
    scorer = Reranker(tiny_scorer(tiny_base(max_position_embeddings=128), "hard-prompt"))
    topics = {"1": "short", "2": "a very long query " * 40}
    with pytest.raises(
        PairError, match=r"topic '2', passage 'd3' \(\d+ tokens\): the query is too long"
    ) as error:
        list(rerank([ranking("1", "01"), ranking("2", "34")], topics, corpus(TEXTS), scorer))
    assert (error.value.qid, error.value.docid) == ("2", "d3") and error.value.tokens > 128


def test_a_score_that_is_no_number_is_an_error_whoever_gives_it() -> None:
    class Broken:
        def score(self, pairs: Sequence[tuple[str, Passage]], progress: object = None) -> list[float]:
            return [1.0, float("nan"), 2.0]

    with pytest.raises(PairError, match="topic '1', passage 'd1'.*nan"):
        list(rerank([ranking("1", "012")], TOPICS, PASSAGES, Broken()))


def test_a_scorer_may_give_any_sequence_of_numbers() -> None:
    class Plain:
        def score(self, pairs: Sequence[tuple[str, Passage]], progress: object = None) -> list[float]:
            return [float(ord(passage.docid[1])) for _, passage in pairs]

    assert order(next(rerank([ranking("1", "012")], TOPICS, PASSAGES, Plain()))) == "210"


def test_the_next_window_is_prepared_while_one_is_scored_and_callbacks_stay_here() -> None:
    looked_up, waits = threading.Semaphore(0), iter([2, 1, 0])  # of three windows: two, one more, no more
    here, heard = threading.current_thread(), []

    class Watched(Corpus):
        def get(self, docids: Sequence[str]) -> dict[str, Passage]:
            assert threading.current_thread() is not here
            looked_up.release()
            return super().get(docids)

    class Patient(ByLength):
        def score(self, *arguments: object) -> np.ndarray:
            for _ in range(next(waits)):
                assert looked_up.acquire(timeout=300)
            return super().score(*arguments)

    def hear(news: object) -> None:
        heard.append(news)
        assert threading.current_thread() is here

    run = [ranking("1", "0189"), ranking("2", "01"), ranking("007", "34")]
    options = {"missing": "skip", "on_missing": hear, "progress": hear, "window": 1}
    found = list(rerank(run, TOPICS, Watched(PASSAGES), Patient(), **options))
    assert [order(r) for r in found] == ["0189", "01", "43"] and len(heard) == 5


def test_an_error_comes_after_the_windows_before_it_and_no_thread_stays() -> None:
    found = rerank([ranking("1", "01"), ranking("2", "18")], TOPICS, PASSAGES, ByLength(), window=1)
    assert order(next(found)) == "01"
    with pytest.raises(MissingPassageError):
        next(found)
    abandoned = rerank([ranking("1", "01")] * 9, TOPICS, PASSAGES, ByLength(), window=1)
    next(abandoned)
    abandoned.close()
    for thread in threading.enumerate():
        if thread.name.startswith("ahead of"):
            thread.join(300)
            assert not thread.is_alive()


def test_progress_counts_scored_pairs() -> None:
    heard: list[int] = []
    list(
        rerank(
            [ranking("1", "0123"), ranking("2", "01")],
            TOPICS,
            Corpus(PASSAGES),
            ByLength(),
            depth=3,
            progress=heard.append,
        )
    )
    assert sum(heard) == 5
