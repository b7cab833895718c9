"""`DocumentScorer`: the rerank stage for long documents, with any scorer of passages.

scorer = DocumentScorer(Reranker.from_adapter("my-adapter"), window=150)
for ranking in rerank(read_run("run.bm25.txt"), topics, open_passages(index="docs"), scorer):
    ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from qpeft_rerank.documents import BEST, WINDOW, check_score, checked_stride, cut, document_score
from qpeft_rerank.errors import PairError
from qpeft_rerank.reranker import MOST_PAIRS, WINDOW_PAIRS, PairScorer

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

    def score(
        self, pairs: Sequence[tuple[str, Passage]], progress: Callable[[int], None] | None = None
    ) -> np.ndarray:
        """A float32 score for each (query, document); ``progress`` hears of finished pairs.

        Raises:
            PairError: a window that cannot be scored; ``index`` is that of its pair.
        """
        windows: dict[Passage, list[Passage]] = {}
        for _, document in pairs:
            if document not in windows:
                parts = cut(document, self.window, self.stride)
                windows[document] = parts[:1] if self.kind == "first" else parts
        scores = np.empty(len(pairs), dtype=np.float32)
        for start, end in _groups([len(windows[document]) for _, document in pairs]):
            parts = [windows[document] for _, document in pairs[start:end]]
            heard = progress and _in_pairs(progress, sum(map(len, parts)), end - start)
            found = self._score_windows([query for query, _ in pairs[start:end]], parts, start, heard)
            scores[start:end] = [document_score(own, self.kind, self.best) for own in found]
        return scores

    def _score_windows(
        self,
        queries: list[str],
        parts: list[list[Passage]],
        first: int,
        progress: Callable[[int], None] | None,
    ) -> list[np.ndarray]:
        """The scores of all windows of each document; ``first`` is the index of the first of these pairs."""
        asked = [(query, window) for query, own in zip(queries, parts, strict=True) for window in own]
        ends = list(accumulate(map(len, parts)))
        try:
            scores = np.asarray(self.scorer.score(asked, progress), dtype=np.float32)
        except PairError as error:
            pair = int(np.searchsorted(ends, error.index, side="right"))
            number, of = error.index - ends[pair] + len(parts[pair]) + 1, len(parts[pair])
            reason = error.reason if of == 1 else f"window {number} of {of}: {error.reason}"
            raise PairError(reason, first + pair, error.tokens) from error
        if scores.shape != (len(asked),):
            raise ValueError(f"the scorer gave {scores.shape} scores for {len(asked)} pairs")
        return np.split(scores, ends[:-1])


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


def _in_pairs(progress: Callable[[int], None], windows: int, pairs: int) -> Callable[[int], None]:
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
