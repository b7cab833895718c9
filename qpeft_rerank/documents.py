"""Long documents: cut to overlapping windows of words, and scored by their windows.

A document's score is that of its best window (``max``), of its first one (``first``), or the mean of its best
k (``mean``); Dai and Callan, SIGIR 2019, compare such scores. `DocumentScorer` uses them within the rerank
stage. For a first stage there are two steps: `cut_corpus` makes a corpus of windows, and `document_run` makes
a run of documents from a run of windows.

Words are what stands between white space: a text in a script without spaces is one word, and is not cut. A
scorer that takes so many tokens of a passage takes no more of a window.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from qpeft_rerank.corpora import Passage, contents_of
from qpeft_rerank.errors import InputError
from qpeft_rerank.files import atomic_write, start_of_message
from qpeft_rerank.rankings import Ranking, ScoredDoc
from qpeft_rerank.trec import Run, as_rankings

DOCUMENT_SCORES = ("max", "first", "mean")
WINDOW = 150  # words, with a stride of half of it: as in Dai and Callan
BEST = 3
SEPARATOR = "#"  # between a document's id and the number of its window: Pyserini's
_WORD = re.compile(r"\S+")


def cut(
    document: Passage, window: int, stride: int | None = None, separator: str = SEPARATOR
) -> list[Passage]:
    """Cut a document to windows, in order; each has the title, and the id ``DOCID#0``, ``DOCID#1``, ...

    Args:
        document: its text; white space within a window stays as it is.
        window: words in a window.
        stride: words from the start of one to that of the next; by default half the window. The last window
            is the first that reaches the end.
        separator: what stands before the number.

    >>> [part.text for part in cut(Passage("d", "Title", "one two three four five"), 3, 2)]
    ['one two three', 'three four five']
    """
    stride = checked_stride(window, stride)
    words = [match.span() for match in _WORD.finditer(document.text)]
    if len(words) <= window:
        return [document._replace(docid=f"{document.docid}{separator}0")]
    starts = range(0, len(words) - window + stride, stride)
    texts = (document.text[words[at][0] : words[min(at + window, len(words)) - 1][1]] for at in starts)
    return [Passage(f"{document.docid}{separator}{i}", document.title, text) for i, text in enumerate(texts)]


def document_score(scores: Sequence[float] | np.ndarray, kind: str = "max", best: int = BEST) -> float:
    """The score of a document from those of its windows, given in their order.

    Args:
        scores: one or more.
        kind: ``max``, ``first``, or ``mean``: the mean of the ``best`` highest, or of all if there are fewer.
        best: see there.

    >>> document_score([1.0, 4.0, 2.0, 3.0], "mean", best=2)
    3.5
    """
    check_score(kind, best)
    if kind == "first":
        return float(scores[0])
    highest = np.sort(np.asarray(scores, dtype=np.float64))[::-1]  # a NaN comes first, and is not hidden
    return float(highest[: 1 if kind == "max" else best].mean())


def document_run(
    rankings: Run,
    kind: str = "max",
    best: int = BEST,
    separator: str = SEPARATOR,
    hits: int | None = None,
) -> Iterator[Ranking]:
    """Turn a run of windows into one of documents, topic by topic.

    Args:
        rankings: a run (`trec.Run`), with ids like ``DOCID#4``; they are cut at the last
            separator. An id without one is a document of one window.
        kind, best: see `document_score`; a document has the windows that the run has. ``first`` is the one
            with the lowest number of these.
        separator: see there.
        hits: documents of a topic that are kept; None: all.

    Returns:
        Documents by score; equal ones in the order of their best windows.

    Raises:
        InputError: the run is empty, no id of it has the separator, or one has no document's id before it.
    """
    check_score(kind, best)
    if not separator:
        raise InputError("separator: it is empty")
    empty, cut_any, example = True, False, None
    for qid, docs in as_rankings(rankings):
        empty = False
        found: dict[str, list[tuple[int, float]]] = {}
        for docid, score in docs:
            document, number = _parted(docid, separator, qid)
            cut_any, example = cut_any or document != docid, docid
            found.setdefault(document, []).append((number, score))
        scored = [
            ScoredDoc(document, document_score([score for _, score in sorted(windows)], kind, best))
            for document, windows in found.items()
        ]
        yield Ranking(qid, sorted(scored, key=lambda doc: -doc.score)[:hits])
    if empty:
        raise InputError(f"{start_of_message(rankings)}the run is empty: there is nothing to join")
    if not cut_any and example is not None:
        raise InputError(f"no id of the run has the separator {separator!r} (one is {example!r})")


def cut_corpus(
    documents: Iterable[Passage],
    target: str | Path | TextIO,
    window: int = WINDOW,
    stride: int | None = None,
    separator: str = SEPARATOR,
) -> tuple[int, int]:
    """Write the windows (`cut`) of all documents as a corpus in Anserini's form; give the numbers of
    documents and windows.

    Raises InputError for a separator that is empty or has white space.
    """
    checked_stride(window, stride)
    if not separator or separator != "".join(separator.split()):
        raise InputError(f"separator: {separator!r} is empty or has white space")
    count = written = 0
    with atomic_write(target) as out:
        for document in documents:
            count += 1
            for part in cut(document, window, stride, separator):
                written += 1
                record = {"id": part.docid, "title": part.title, "contents": contents_of(part)}
                out.write(json.dumps(record, ensure_ascii=False) + "\n")
    return count, written


def checked_stride(window: int, stride: int | None) -> int:
    """The stride, by default half the window. Raises InputError for impossible numbers of words."""
    for name, value in (("window", window), ("stride", stride)):
        if value is not None and value < 1:
            raise InputError(f"{name}: {value} is not at least 1")
    if stride is None:
        return max(1, window // 2)
    if stride > window:
        raise InputError(f"stride: {stride} words would leave out words between windows of {window}")
    return stride


def check_score(kind: str, best: int) -> None:
    """Raise InputError for what `document_score` does not know."""
    if kind not in DOCUMENT_SCORES:
        raise InputError(f"document score: {kind!r} is not one of {', '.join(DOCUMENT_SCORES)}")
    if best < 1:
        raise InputError(f"best: {best} is not at least 1")


def _parted(docid: str, separator: str, qid: str) -> tuple[str, int]:
    """A document's id and the number of its window; a window without a number comes last."""
    document, found, number = docid.rpartition(separator)
    if not found:
        return docid, 0
    if not document:
        raise InputError(f"topic {qid!r}: {docid!r} has no document's id before {separator!r}")
    return document, int(number) if number.isdecimal() else 2**63
