"""The fast way through a block of a run: NumPy finds the columns and reads the scores of all lines at once.

It takes the layout that every tool writes (one separator between two columns) and gives None for any
other; :func:`~qpeft_rerank.columns.parse_lines` then takes the block and finds the error, if there is one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qpeft_rerank.columns import Block, Stretch, parse_score
from qpeft_rerank.run_topics import topic_rows

COLUMNS = ("qid", "Q0", "docid", "rank", "score", "tag")
MSMARCO_COLUMNS = ("qid", "docid", "rank")
_TAB, _NEWLINE, _SPACE, _MINUS, _DOT, _ZERO = b"\t\n -.0"
# Up to 14 digits and a point, mantissa and power of ten are exact: one division gives the very number that
# float() gives.
_EXACT_DIGITS = 14
_POWERS = np.array([float(f"1e{power}") for power in range(_EXACT_DIGITS + 2)])


def parse_block(block: Block, columns: Sequence[str] = COLUMNS, value: str = "score") -> list[Stretch] | None:
    """The stretches of a block, or None when its layout is unusual or something is wrong in it.

    ``columns`` and ``value`` as for `parse_lines`; the first column is the qid.
    """
    docid_at, value_at = columns.index("docid"), columns.index(value)
    data = block.data
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    chars = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(chars <= _SPACE)
    lines = len(block.lines)
    if len(ends) != lines * len(columns) or ends[0] == 0 or (ends[1:] - ends[:-1] == 1).any():
        return None
    ends = ends.reshape(lines, len(columns))
    if (chars[ends[:, -1]] != _NEWLINE).any() or not _only_blanks(chars, ends[:, :-1]):
        return None
    starts = np.concatenate([[0], ends[:-1, -1] + 1])
    rows = topic_rows(data, starts)
    if rows is None:
        return None
    try:
        scores = _scores(chars, ends[:, value_at - 1] + 1, ends[:, value_at])
    except ValueError:
        return None
    if value == "rank":
        if (scores < 1).any() or (scores % 1).any():
            return None
        scores = 1 / scores
    docids = _texts(chars, ends[:, docid_at - 1] + 1, ends[:, docid_at])
    qids = zip(starts[rows].tolist(), ends[rows, 0].tolist())
    rows = rows.tolist()
    return [
        Stretch(data[start:end].decode(), docids[first:after], scores[first:after], block.lines[first:after])
        for (start, end), first, after in zip(qids, rows, [*rows[1:], lines])
    ]


def _only_blanks(chars: np.ndarray, separators: np.ndarray) -> bool:
    """Whether blanks and tabs alone stand between columns."""
    # As every line end is known, counting blanks does for most runs, and is quicker than to look them up.
    if np.count_nonzero(chars == _SPACE) == separators.size:
        return True
    found = chars[separators]
    return bool(((found == _SPACE) | (found == _TAB)).all())


def _texts(chars: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> list[str]:
    """The texts chars[start:end]: cut out in one piece, each with the separator after it, and then split."""
    lengths = ends + 1 - starts
    stops = np.cumsum(lengths)
    places = np.arange(stops[-1]) + np.repeat(starts - (stops - lengths), lengths)
    return chars[places].tobytes().replace(b"\t", b" ").decode().split(" ")[:-1]


def _scores(chars: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The numbers in chars[start:end], float64 [n]; ValueError if one is none."""
    lengths = ends - starts
    width = min(int(lengths.max()), _EXACT_DIGITS + 2)  # digits, sign and point
    from_end = np.arange(1, width + 1)[:, None]
    inside = from_end <= lengths
    text = chars[ends - from_end]  # [width, n], the last character first; what lies outside is masked
    digits = text - np.uint8(_ZERO)  # not below 10 for any other character: unsigned numbers wrap
    is_digit = (digits < 10) & inside
    is_dot = (text == _DOT) & inside
    negative = chars[starts] == _MINUS
    digit_count, dot_count = (np.add.reduce(found, axis=0, dtype=np.uint8) for found in (is_digit, is_dot))
    simple = digit_count + dot_count + negative == lengths
    simple &= (digit_count > 0) & (digit_count <= _EXACT_DIGITS) & (dot_count <= 1)
    powers = _POWERS[:width]
    with_place = powers @ np.where(is_digit, digits, 0)  # the point counts as a digit 0
    scale = powers @ is_dot  # 10 to the number of decimals; 0 where there is no point
    before_point = np.floor(with_place / (10 * scale + (scale == 0))) * (scale > 0)
    scores = (with_place - 9 * scale * before_point) / (scale + (scale == 0))
    np.negative(scores, where=negative, out=scores)
    for row in np.flatnonzero(~simple).tolist():  # exponents, more digits, or no number
        scores[row] = parse_score(chars[starts[row] : ends[row]].tobytes())
    return scores
