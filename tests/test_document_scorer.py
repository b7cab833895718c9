"""The rerank stage scores long documents by their windows; errors and progress speak of the documents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from tiny_models import TEXTS, corpus, tiny_base, tiny_scorer

from qpeft_rerank import document_scorer
from qpeft_rerank.document_scorer import DocumentScorer
from qpeft_rerank.documents import cut
from qpeft_rerank.errors import InputError, PairError
from qpeft_rerank.passages import Passage
from qpeft_rerank.reranker import Reranker
from qpeft_rerank.reranking import plan_window, rerank
from qpeft_rerank.resume import write_resumably
from qpeft_rerank.trec import Ranking, ScoredDoc


class BySize:
    """A scorer that needs no model: a window's score is its first word, a number; "x" cannot be scored."""

    def __init__(self) -> None:
        self.asked: list[list[tuple[str, str]]] = []

    def score(
        self, pairs: Sequence[tuple[str, Passage]], progress: Callable[[int], None] | None = None
    ) -> np.ndarray:
        self.asked.append([(query, window.docid) for query, window in pairs])
        for index, (_, window) in enumerate(pairs):
            if window.text.startswith("x"):
                raise PairError("no number", index, tokens=7)
            if progress is not None:
                progress(1)
        return np.array([float(window.text.split()[0]) for _, window in pairs], dtype=np.float32)


def pairs(*texts: str) -> list[tuple[str, Passage]]:
    return [(f"query {i}", Passage(f"d{i}", "", text)) for i, text in enumerate(texts)]


DOCUMENTS = pairs("2 9 4 6", "5", "1 1 8")


def test_a_document_is_scored_by_its_windows() -> None:
    for kind, expected in (("max", [9, 5, 8]), ("first", [2, 5, 1]), ("mean", [7.5, 5, 4.5])):
        scorer = DocumentScorer(BySize(), window=1, kind=kind, best=2)
        found = scorer.score(DOCUMENTS)
        assert found.dtype == np.float32 and found.tolist() == expected


def test_all_windows_go_to_the_scorer_in_one_call_and_with_first_only_first_ones() -> None:
    every, first = BySize(), BySize()
    DocumentScorer(every, window=2, stride=1).score(DOCUMENTS)
    assert every.asked == [
        [("query 0", f"d0#{i}") for i in range(3)]
        + [("query 1", "d1#0")]
        + [("query 2", f"d2#{i}") for i in range(2)]
    ]
    DocumentScorer(first, window=2, stride=1, kind="first").score(DOCUMENTS)
    assert first.asked == [[(f"query {i}", f"d{i}#0") for i in range(3)]]


def test_no_pairs_have_no_scores() -> None:
    assert DocumentScorer(BySize()).score([]).shape == (0,)


def test_more_windows_than_are_scored_together_go_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_scorer, "MOST_PAIRS", 4)
    scorer, heard = BySize(), []
    many = pairs("2 9 4 6", "5", "1 1 8", "1 2 3 4 5 6", "7", "3")
    found = DocumentScorer(scorer, window=1).score(many, heard.append)
    assert found.tolist() == [9, 5, 8, 6, 7, 3]
    assert [len(asked) for asked in scorer.asked] == [4, 4, 6, 2]
    assert sum(heard) == 6
    with pytest.raises(PairError) as error:
        DocumentScorer(BySize(), window=1).score(pairs("2 9 4 6", "5", "1 x 8"))
    assert error.value.index == 2


def test_an_error_names_the_document_and_says_which_window() -> None:
    scorer = DocumentScorer(BySize(), window=1)
    with pytest.raises(PairError, match=r"window 3 of 4: no number") as error:
        scorer.score(pairs("1", "2 3", "4 5 x 6", "7"))
    assert error.value.index == 2 and error.value.tokens == 7
    with pytest.raises(PairError, match=r"pair 1 \(7 tokens\): no number"):
        scorer.score(pairs("1", "x"))
    run = [Ranking("1", [ScoredDoc("d0", 2), ScoredDoc("d1", 1)])]
    with pytest.raises(PairError, match=r"topic '1', passage 'd1' \(7 tokens\): window 2 of 2: no number"):
        list(rerank(run, {"1": "query"}, corpus(["1 2 3", "4 x"]), scorer))


def test_progress_is_in_documents_whatever_the_order_of_windows() -> None:
    heard: list[int] = []
    DocumentScorer(BySize(), window=1).score(DOCUMENTS, heard.append)
    assert sum(heard) == 3 and min(heard) >= 1


def test_a_score_that_is_no_number_is_not_hidden() -> None:
    class Broken:
        def score(self, pairs: Sequence[tuple[str, Passage]], progress: object = None) -> list[float]:
            return [1.0] * (len(pairs) - 1) + [float("nan")]

    for kind in ("max", "mean"):
        assert np.isnan(DocumentScorer(Broken(), window=1, kind=kind, best=1).score(pairs("1 2 3"))).all()


def test_impossible_settings_are_errors() -> None:
    for settings in ({"window": 0}, {"window": 3, "stride": 4}, {"kind": "sum"}, {"best": 0}):
        with pytest.raises(InputError):
            DocumentScorer(BySize(), **settings)


# ---- with a model ----

LONG = [" ".join(TEXTS[i:] + TEXTS[:i]) for i in range(3)] + [TEXTS[0]]


@pytest.fixture(scope="module")
def reranker() -> Reranker:
    return Reranker(tiny_scorer(tiny_base(), "qpeft-a"))


def test_scores_are_those_of_the_windows_scored_alone(reranker: Reranker) -> None:
    asked = [
        (query, Passage("d", "Bees", text)) for query in ("who built it", "what is salt") for text in LONG
    ]
    found = DocumentScorer(reranker, window=12, kind="mean", best=2).score(asked)
    for score, (query, document) in zip(found, asked, strict=True):
        alone = [reranker.score([(query, part)])[0] for part in cut(document, 12)]
        assert score == pytest.approx(np.mean(sorted(alone)[-2:]), abs=1e-4)


def test_texts_that_fit_score_as_without_windows(reranker: Reranker) -> None:
    asked = [("who built it", Passage(f"d{i}", "", text)) for i, text in enumerate(TEXTS)]
    assert np.allclose(DocumentScorer(reranker, window=500).score(asked), reranker.score(asked), atol=1e-5)


def test_a_killed_run_of_documents_ends_in_the_same_bytes(reranker: Reranker, tmp_path: Path) -> None:
    topics = {str(n): text for n, text in enumerate(TEXTS)}
    run = [Ranking(qid, [ScoredDoc(f"d{i}", -float(i)) for i in range(4)]) for qid in topics]
    scorer = DocumentScorer(reranker, window=12)

    def write(output: str, stop: int | None = None, resume: bool = False) -> bytes:
        def stage(rankings: Iterable[Ranking]) -> Iterable[Ranking]:
            for place, found in enumerate(rerank(rankings, topics, corpus(LONG), scorer, window=2)):
                if place == stop:
                    raise KeyboardInterrupt
                yield found

        write_resumably(iter(run), stage, tmp_path / output, "tag", {}, 2, resume)
        return (tmp_path / output).read_bytes()

    whole = write("whole.txt")
    with pytest.raises(KeyboardInterrupt):
        write("killed.txt", stop=3)
    assert write("killed.txt", resume=True) == whole


def test_a_topic_with_many_windows_is_a_batch_of_its_own() -> None:
    documents = [Passage("d1", "", "1 2 3 4 5 6"), Passage("d2", "", "1")]
    uncut = DocumentScorer(BySize(), window=99)
    cut_small = DocumentScorer(BySize(), window=2, stride=2)  # four windows of two documents
    first = DocumentScorer(BySize(), window=2, kind="first")
    assert [scorer.topics_together(40, documents) for scorer in (uncut, cut_small, first)] == [40, 20, 40]
    assert cut_small.topics_together(1, documents) == 1 and cut_small.topics_together(40, []) == 40
    passages = corpus(document.text for document in documents)
    rankings = [Ranking("1", [ScoredDoc("d0", 2.0), ScoredDoc("d1", 1.0)])]
    assert (
        plan_window(rankings, 2, cut_small, passages)[0] == plan_window(rankings, 2, uncut, passages)[0] // 2
    )
