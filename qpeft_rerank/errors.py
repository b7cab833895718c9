"""The typed errors of the library. Each message is one line that names what is wrong and, where known, what
to do.

The command line prints the message and exits with code 2; nothing in the library prints or exits.
"""

from __future__ import annotations

import copyreg
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class QpeftError(Exception):
    """Base of every error that this package raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        """What goes to another process: message and attributes, as the constructors take other things."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class InputError(QpeftError):
    """A file, folder, name or setting that cannot be used: the message names it and what was expected."""


class FinishedError(InputError):
    """What is asked for is done already: nothing is left to do."""


class FormatError(InputError):
    """A malformed line or record. ``path`` and ``line`` (from 1) say where."""

    def __init__(self, path: object, line: int | None, message: str):
        self.path, self.line = str(path), line
        super().__init__(f"{path}:{line}: {message}" if line is not None else f"{path}: {message}")


class MissingTopicError(InputError):
    """A run names a topic that the topics do not have, or whose text there is ``blank``."""

    def __init__(self, qid: str, blank: bool = False):
        self.qid, self.blank = qid, blank
        super().__init__(f"topic {qid!r} of the run {'has no text' if blank else 'is not'} in the topics")


class MissingPassageError(InputError):
    """A run names a passage that the index or corpus does not have."""

    def __init__(self, docid: str, where: object, qid: str | None = None):
        self.docid, self.qid = docid, qid
        of = f" (candidate of topic {qid!r})" if qid is not None else ""
        super().__init__(f"passage {docid!r}{of} is not in {where}")


class DependencyError(QpeftError):
    """An optional package, or Java, is missing: the message says what to install."""


class AdapterError(QpeftError):
    """An adapter folder that is incomplete, damaged or made for another base model."""


class PairError(QpeftError):
    """One (topic, passage) pair that cannot be scored: too long for the model or the device, or nothing to
    score.

    Attributes:
        reason: what is wrong with it.
        index: its place among the pairs that were given.
        tokens: how many tokens it has, where that matters.
        qid, docid: which pair it is, as far as a stage knows (`named_pairs`).
    """

    def __init__(
        self,
        reason: str,
        index: int = 0,
        tokens: int | None = None,
        qid: str | None = None,
        docid: str | None = None,
    ):
        self.reason, self.index, self.tokens, self.qid, self.docid = reason, index, tokens, qid, docid
        pair = f"pair {index}" if docid is None else f"passage {docid!r}"
        pair = pair if qid is None else f"topic {qid!r}, {pair}"
        super().__init__(f"{pair}{'' if tokens is None else f' ({tokens} tokens)'}: {reason}")


@contextmanager
def named_pairs(names: Sequence[tuple[str | None, str]]) -> Iterator[None]:
    """Within, a `PairError` says which pair it is about.

    Args:
        names: topic (None where that is not known) and passage of each pair, by their ids.
    """
    try:
        yield
    except PairError as error:
        raise PairError(error.reason, error.index, error.tokens, *names[error.index]) from error


class WorkerError(QpeftError):
    """A process that scores has ended before its work was done."""


def examples(ids: Iterable[str]) -> str:
    """Up to three of some ids, the first by their order, as text for a message."""
    few = sorted(ids)
    return ", ".join(map(repr, few[:3])) + (", ..." if len(few) > 3 else "")


def one_line(error: BaseException) -> str:
    """Another library's error as one line of at most 300 characters; its type if it says nothing."""
    return " ".join(str(error).split())[:300] or type(error).__name__
