"""Where the topics of a run begin: NumPy compares the first columns of all lines, eight bytes at a time."""

from __future__ import annotations

import re

import numpy as np

_WORD = 8  # bytes compared at once
_EACH = np.uint64(0x0101010101010101)  # the lowest bit of each byte
_HIGH = _EACH << np.uint64(7)  # the highest
_ONE, _TWO, _SEVEN, _TAB = np.array([1, 2, 7, ord("\t")], np.uint64)
_BLANKS = np.uint64(ord(" ") + 1) * _EACH
_FIRST_COLUMN = re.compile(rb"\S+")
_SAME_TOPIC = re.compile(rb"^[^\S\n]*(\S+)([^\S\n]).*\n(?:\1\2.*\n)*", re.MULTILINE)
"""Lines that follow each other and start with the same first column (group 1)."""


def find_topics(data: bytes) -> list[tuple[bytes, int]]:
    """(qid, first byte) wherever a topic begins in whole lines, in any layout; a qid may come twice in a row.

    A line without a second column begins no topic.
    """
    newlines = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
    starts = np.concatenate([[0], newlines[:-1] + 1])
    rows = topic_rows(data, starts)
    if rows is None:
        return [(lines[1], lines.start()) for lines in _SAME_TOPIC.finditer(data)]
    return [(_FIRST_COLUMN.match(data, start)[0], start) for start in starts[rows].tolist()]


def topic_rows(data: bytes, starts: np.ndarray) -> np.ndarray | None:
    """The lines, counted from 0, whose first column differs from that of the line before; the first is one.

    ``starts`` [n] is the first byte of each line. None for an unusual layout: a line that begins with white
    space, is very short, or has no blank or tab after its first column.
    """
    last = len(data) - _WORD  # where the last whole word is
    if starts[-1] > last:
        return None
    words = np.ndarray(last + 1, "<u8", data, strides=(1,))  # the eight bytes from each byte on
    same = np.ones(len(starts) - 1, bool)
    ended = np.zeros(len(starts), bool)
    at = starts
    while not ended.all():
        word = words[at]
        # The highest bit of the first byte that is not above a blank; a bit above it may be wrong.
        mark = (word - _BLANKS) & ~word & _HIGH
        mark &= ~mark + _ONE  # the lowest bit alone
        # The column with the white space after it; all eight bytes where the column goes on.
        word &= (mark << _ONE) - _ONE
        separator = word & ((mark << _ONE) - (mark >> _SEVEN))
        plain = (separator == mark >> _TWO) | (separator == (mark >> _SEVEN) * _TAB)
        if not (plain | ended).all():
            return None
        same &= (word[1:] == word[:-1]) | ended[1:]
        if at is starts and (mark >> _SEVEN == _ONE).any():  # white space at once
            return None
        ended |= mark != 0
        at = at + _WORD
        if (at[~ended] > last).any():
            return None
        at = np.minimum(at, last)
    return np.concatenate([[0], np.flatnonzero(~same) + 1])
