"""Data frames as PyTerrier has them: runs, topics and qrels by row, and reranking as a step of a pipeline.

=======  =====================================================
topics   columns ``qid, query``
run      ``qid, docno, score``
qrels    ``qid, docno, label``
=======  =====================================================

Other columns are left alone. pandas is not imported: who has a frame has it.

    import pyterrier as pt
    from qpeft_rerank import Reranker, rerank_frame
    reranker = Reranker.from_adapter("my-adapter")
    texts = pt.text.get_text(dataset, ["title", "text"])
    pipeline = bm25 % 100 >> texts >> pt.apply.generic(lambda frame: rerank_frame(frame, reranker))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import isnan
from numbers import Real
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from qpeft_rerank.corpora import Passage
from qpeft_rerank.errors import InputError, QpeftError

if TYPE_CHECKING:
    from qpeft_rerank.reranker import PairScorer, Progress


@runtime_checkable
class Frame(Protocol):
    """A ``pandas.DataFrame``, told by what it has."""

    columns: Any
    iloc: Any

    def assign(self, **columns: Any) -> Frame:
        """The frame with these columns."""
        ...

    def __getitem__(self, column: str) -> Any: ...


def run_of_frame(frame: Frame) -> dict[str, dict[str, float]]:
    """A run as topic -> docid -> score. InputError for a missing column, an id that is no text, a document
    that a topic has twice.
    """
    return _by_topic(frame, "run", "score", unique=True)


def qrels_of_frame(frame: Frame) -> dict[str, dict[str, int]]:
    """Qrels as topic -> docid -> grade. InputError as for `run_of_frame`, but a grade may be repeated."""
    return _by_topic(frame, "qrels", "label", unique=False)


def topics_of_frame(frame: Frame) -> dict[str, str]:
    """Topics as qid -> text, of their own frame or of a run's; a missing query (None, NaN) is a blank text.

    InputError for a missing column, a qid that is no text, a query of another type, a topic with two queries.
    """
    topics: dict[str, str] = {}
    for qid, query in _rows(frame, "topics", "qid", "query"):
        text = _text(query)
        if text is None:
            raise InputError(f"topics: topic {qid!r}: the query {query!r} is no text")
        if topics.setdefault(qid, text) != text:
            raise InputError(f"topics: topic {qid!r} has two queries: {topics[qid]!r:.60} and {text!r:.60}")
    return topics


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
    from qpeft_rerank.reranking import rerank  # loads torch

    places = {pair: place for place, pair in enumerate(_rows(frame, "run", "qid", "docno"))}
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
        for docid, contents, head in _rows(frame, "run", "docno", text, title if titled else text):
            if not isinstance(contents, str):
                continue
            passage = Passage(docid, (_text(head) or "") if titled else "", contents)
            if self._passages.setdefault(docid, passage) != passage:
                raise InputError(
                    f"run: passage {docid!r} has two texts (or titles) in the frame: they must be the same"
                    " for every topic, no snippets"
                )

    def get(self, docids: Sequence[str]) -> dict[str, Passage]:
        """See :class:`~qpeft_rerank.passages.Passages`."""
        return {docid: self._passages[docid] for docid in docids if docid in self._passages}


def _text(value: Any) -> str | None:
    """A text; "" where there is none (None, NaN, NA); None for what is something else."""
    if isinstance(value, str):
        return value
    missing = value is None or type(value).__name__ == "NAType" or isinstance(value, float) and isnan(value)
    return "" if missing else None


def _by_topic(frame: Frame, what: str, value: str, unique: bool) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for qid, docid, number in _rows(frame, what, "qid", "docno", value):
        if not isinstance(number, Real):
            raise InputError(f"{what}: topic {qid!r}, {docid!r}: the {value} {number!r} is no number")
        docs = found.setdefault(qid, {})
        if docid in docs and (unique or docs[docid] != number):
            again = "" if unique else " with two grades"
            raise InputError(f"{what}: topic {qid!r} has document {docid!r} twice{again}")
        docs[docid] = number
    return found


def _rows(frame: Frame, what: str, *names: str) -> Iterator[tuple[Any, ...]]:
    """The rows of these columns, as Python's own types; ids must be text."""
    there = list(frame.columns)
    for name in names:
        if there.count(name) != 1:
            problem = "more than one column" if name in there else "no column"
            raise InputError(
                f"{what}: the frame has {problem} {name!r}; it has: {', '.join(map(str, there))}"
            )
    columns = [frame[name].tolist() for name in names]
    for name, column in zip(names, columns):
        for one in column if name in ("qid", "docno") else ():
            if not isinstance(one, str):
                advice = f"ids are text: read them as such, pandas.read_csv(..., dtype={{{name!r}: str}})"
                raise InputError(f"{what}: the column {name!r} has {one!r}, which is no text ({advice})")
    return zip(*columns)
