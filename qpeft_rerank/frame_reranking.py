"""Reranking as a step of a PyTerrier pipeline: a data frame of candidates in, the same in its new order out.

import pyterrier as pt
from qpeft_rerank import Reranker, rerank_frame
reranker = Reranker.from_adapter("my-adapter")
texts = pt.text.get_text(dataset, ["title", "text"])
pipeline = bm25 % 100 >> texts >> pt.apply.generic(lambda frame: rerank_frame(frame, reranker))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qpeft_rerank.errors import InputError, QpeftError
from qpeft_rerank.frames import Frame, rows_of, run_of_frame, text_of, topics_of_frame
from qpeft_rerank.passages import Passage
from qpeft_rerank.reranker import PairScorer, Progress
from qpeft_rerank.reranking import rerank


def rerank_frame(
    frame: Frame,
    scorer: PairScorer,
    depth: int = 100,
    missing: str = "error",
    on_missing: Callable[[QpeftError], None] | None = None,
    progress: Progress | None = None,
    weight: float | None = None,
    text: str = "text",
    title: str = "title",
) -> Frame:
    """Rerank a frame of candidates: a function for PyTerrier's ``pt.apply.generic``.

    Args:
        frame: with the columns ``qid, query, docno`` and the passage's text; with ``score``, the first
            stage's (equal ones as trec_eval has them, by docid, descending), or without: then the order of
            rows counts, and the model alone ranks.
        scorer, depth, missing, on_missing, progress, weight: as for `reranking.rerank`.
        text, title: columns of the passage's text and title, the same for every topic (no snippets); there
            need not be titles.

    Returns:
        The frame's rows with new ``score`` and ``rank`` (from 0), topic by topic as they first come, best
        first.

    Raises:
        InputError: a column is missing, an id is no text, a topic has a document twice or two queries, a
            passage has two texts; and as `reranking.rerank`.
    """
    places = {pair: place for place, pair in enumerate(rows_of(frame, "run", "qid", "docno"))}
    if "score" in frame.columns:
        run = run_of_frame(frame)
    else:
        if weight not in (None, 1):
            raise InputError(
                f"weight: {weight!r} needs the first stage's scores, and there is no column 'score'"
            )
        weight = 1.0
        run = run_of_frame(frame.assign(score=range(len(frame), 0, -1)))
    topics, passages = topics_of_frame(frame), _FramePassages(frame, text, title)
    order, scores, ranks = [], [], []
    if run:  # PyTerrier asks with an empty frame what columns there will be
        for qid, docs in rerank(
            run, topics, passages, scorer, depth, missing, on_missing, progress, weight=weight
        ):
            order += [places[qid, docid] for docid, _ in docs]
            scores += [score for _, score in docs]
            ranks += range(len(docs))
    ranked = frame.iloc[order].reset_index(drop=True).assign(score=scores, rank=ranks)
    return ranked.astype({"score": float, "rank": int})


class _FramePassages:
    """The passages of a frame (`passages.Passages`)."""

    def __init__(self, frame: Frame, text: str, title: str):
        self.name = f"the column {text!r} of the frame"
        titled = title in frame.columns
        self._passages: dict[str, Passage] = {}
        for docid, contents, head in rows_of(frame, "run", "docno", text, title if titled else text):
            if not isinstance(contents, str):
                continue
            passage = Passage(docid, (text_of(head) or "") if titled else "", contents)
            if self._passages.setdefault(docid, passage) != passage:
                raise InputError(
                    f"run: passage {docid!r} has two texts (or titles) in the frame: they must be the same"
                    " for every topic, no snippets"
                )

    def get(self, docids: Sequence[str]) -> dict[str, Passage]:
        """See :class:`~qpeft_rerank.passages.Passages`."""
        return {docid: self._passages[docid] for docid in docids if docid in self._passages}
