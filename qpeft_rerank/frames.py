"""Data frames as PyTerrier has them: runs, topics and qrels by row.

=======  =====================================================
topics   columns ``qid, query``
run      ``qid, docno, score``
qrels    ``qid, docno, label``
=======  =====================================================

Other columns are left alone. pandas is not imported: who has a frame has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isnan
from numbers import Real
from typing import Any, Protocol, runtime_checkable

from qpeft_rerank.errors import InputError


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
    for qid, query in rows_of(frame, "topics", "qid", "query"):
        text = text_of(query)
        if text is None:
            raise InputError(f"topics: topic {qid!r}: the query {query!r} is no text")
        if topics.setdefault(qid, text) != text:
            raise InputError(f"topics: topic {qid!r} has two queries: {topics[qid]!r:.60} and {text!r:.60}")
    return topics


def text_of(value: Any) -> str | None:
    """A text; "" where there is none (None, NaN, NA); None for what is something else."""
    if isinstance(value, str):
        return value
    missing = value is None or type(value).__name__ == "NAType" or isinstance(value, float) and isnan(value)
    return "" if missing else None


def _by_topic(frame: Frame, what: str, value: str, unique: bool) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for qid, docid, number in rows_of(frame, what, "qid", "docno", value):
        if not isinstance(number, Real):
            raise InputError(f"{what}: topic {qid!r}, {docid!r}: the {value} {number!r} is no number")
        docs = found.setdefault(qid, {})
        if docid in docs and (unique or docs[docid] != number):
            again = "" if unique else " with two grades"
            raise InputError(f"{what}: topic {qid!r} has document {docid!r} twice{again}")
        docs[docid] = number
    return found


def rows_of(frame: Frame, what: str, *names: str) -> Iterator[tuple[Any, ...]]:
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
