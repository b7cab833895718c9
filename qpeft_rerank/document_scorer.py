"""`DocumentScorer`: the rerank stage for long documents, with any scorer of passages.

scorer = DocumentScorer(Reranker.from_adapter("my-adapter"), window=150)
for ranking in rerank(read_run("run.bm25.txt"), topics, open_passages(index="docs"), scorer):
    ...
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from qpeft_rerank.documents import BEST, WINDOW, check_score, checked_stride, cut, document_score
from qpeft_rerank.errors import PairError
from qpeft_rerank.reranker import MOST_PAIRS, WINDOW_PAIRS, PairScorer, Progress, Scoring, begin

if TYPE_CHECKING:
    from qpeft_rerank.passages import Passage


class DocumentScorer:
    """A `PairScorer` for long documents: scores their windows with another one.

    Args:
        scorer: scores (query, window) pairs: a `Reranker`, or anything with ``score(pairs)``.
        window, stride: see `cut`.
        kind, best: see `document_score`. With ``first``, only first windows are scored.
    """

    def __init__(
        self,
        scorer: PairScorer,
        window: int = WINDOW,
        stride: int | None = None,
        kind: str = "max",
        best: int = BEST,
    ):
        self.scorer, self.window, self.kind, self.best = scorer, window, kind, best
        self.stride = checked_stride(window, stride)
        check_score(kind, best)

    @property
    def weight(self) -> float:
        """The share of a document's score that is this scorer's, as the wrapped scorer says."""
        return getattr(self.scorer, "weight", 1.0)

    @property
    def shared_pairs(self) -> int:
        """How many pairs to score together where topics share documents: as the wrapped scorer says."""
        return getattr(self.scorer, "shared_pairs", WINDOW_PAIRS)

    @property
    def ahead(self) -> int:
        """How many windows of topics to begin before the first is scored: as the wrapped scorer says."""
        return getattr(self.scorer, "ahead", 1)

    def describe(self) -> dict[str, Any]:
        """What scores depend on besides the pairs, JSON-ready: the wrapped scorer's own, and the windows."""
        return {
            **(self.scorer.describe() if hasattr(self.scorer, "describe") else {}),
            "document_window": self.window,
            "document_stride": self.stride,
            "document_score": self.kind,
            "document_best": self.best if self.kind == "mean" else None,
        }

    def topics_together(self, topics: int, documents: Sequence[Passage]) -> int:
        """How many topics to score together, where it were ``topics`` if nothing was cut.

        As many times fewer as the first topic's ``documents`` have windows, so that a kill loses no more
        work.
        """
        if self.kind == "first":
            return topics
        windows = sum(len(cut(document, self.window, self.stride)) for document in documents)
        return max(1, topics * len(documents) // windows) if windows else topics

    def score(self, pairs: Sequence[tuple[str, Passage]], progress: Progress | None = None) -> np.ndarray:
        """A float32 score for each (query, document); ``progress`` hears of finished pairs.

        Raises:
            PairError: a window that cannot be scored; ``index`` is that of its pair.
        """
        return self.begin(pairs)(progress)

    def begin(self, pairs: Sequence[tuple[str, Passage]]) -> Scoring:
        """Cut the documents, and begin with the windows of the first of them; see `score` for the rest."""
        windows: dict[Passage, list[Passage]] = {}
        for _, document in pairs:
            if document not in windows:
                parts = cut(document, self.window, self.stride)
                windows[document] = parts[:1] if self.kind == "first" else parts
        groups = [
            Group(start, [query for query, _ in pairs[start:end]], [windows[d] for _, d in pairs[start:end]])
            for start, end in _groups([len(windows[document]) for _, document in pairs])
        ]
        begun = [self._begin(group) for group in groups[:1]]  # all would take the memory that groups save

        def score(progress: Progress | None = None) -> np.ndarray:
            scores = np.empty(len(pairs), dtype=np.float32)
            for group in groups:
                scoring = begun.pop() if begun else self._begin(group)
                found = self._score(group, scoring, progress)
                scores[group.start : group.start + len(found)] = found
            return scores

        return score

    def _begin(self, group: Group) -> Scoring:
        with group.errors():
            return begin(self.scorer, group.windows())

    def _score(self, group: Group, scoring: Scoring, progress: Progress | None) -> list[float]:
        """The scores of the documents."""
        ends = group.ends()
        heard = progress and _in_pairs(progress, ends[-1], len(group.parts))
        with group.errors():
            scores = np.asarray(scoring(heard), dtype=np.float32)
        if scores.shape != (ends[-1],):
            raise ValueError(f"the scorer gave {scores.shape} scores for {ends[-1]} pairs")
        return [document_score(own, self.kind, self.best) for own in np.split(scores, ends[:-1])]


class Group(NamedTuple):
    """Pairs whose windows are scored together.

    Attributes:
        start: the index of the first pair.
        queries: of each pair.
        parts: the windows of each pair's document.
    """

    start: int
    queries: list[str]
    parts: list[list[Passage]]

    def windows(self) -> list[tuple[str, Passage]]:
        """All windows, with their queries."""
        return [(query, part) for query, own in zip(self.queries, self.parts) for part in own]

    def ends(self) -> list[int]:
        """Where the windows of each pair end among all."""
        return list(accumulate(map(len, self.parts)))

    @contextmanager
    def errors(self) -> Iterator[None]:
        """A `PairError` of a window becomes one of its pair."""
        try:
            yield
        except PairError as error:
            ends = self.ends()
            pair = int(np.searchsorted(ends, error.index, side="right"))
            number, of = error.index - ends[pair] + len(self.parts[pair]) + 1, len(self.parts[pair])
            reason = error.reason if of == 1 else f"window {number} of {of}: {error.reason}"
            raise PairError(reason, self.start + pair, error.tokens) from error


def _groups(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(start, end) of stretches with at most `MOST_PAIRS` windows, or of one pair that has more."""
    start = windows = 0
    for place, size in enumerate(sizes):
        if windows and windows + size > MOST_PAIRS:
            yield start, place
            start, windows = place, 0
        windows += size
    if start < len(sizes):
        yield start, len(sizes)


def _in_pairs(progress: Progress, windows: int, pairs: int) -> Progress:
    """What hears of finished windows, in any order, and tells ``progress`` how many pairs that makes."""
    finished = told = 0

    def heard(count: int) -> None:
        nonlocal finished, told
        finished += count
        now = finished * pairs // windows
        if now > told:
            progress(now - told)
            told = now

    return heard
