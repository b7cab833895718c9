"""The fast way through a block of a run: NumPy finds the columns and reads the scores of all lines at once.

It takes the layout that every tool writes (six columns, one separator between them) and gives None for any
other; :func:`~qpeft_rerank.columns.parse_lines` then takes the block and finds the error, if there is one.
"""

from __future__ import annotations

import numpy as np

from qpeft_rerank.columns import SAME_TOPIC, Block, Stretch, parse_score

COLUMNS = ("qid", "Q0", "docid", "rank", "score", "tag")
_RANK, _SCORE = COLUMNS.index("rank"), COLUMNS.index("score")
_TAB, _NEWLINE, _SPACE, _MINUS, _DOT, _ZERO = b"\t\n -.0"
_DOCID_ONLY = np.array([column == "docid" for column in COLUMNS])
# Up to 15 digits, mantissa and power of ten are exact: one division gives the very number that float() gives.
_EXACT_DIGITS = 15
_POWERS = np.array([float(f"1e{power}") for power in range(_EXACT_DIGITS + 1)])


def parse_block(block: Block) -> list[Stretch] | None:
    """The stretches of a block, or None when its layout is unusual or something is wrong in it."""
    data = block.data
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    chars = np.frombuffer(data, np.uint8)
    # int32 halves the memory that is moved; a block is far below 2 GB.
    ends = np.flatnonzero(chars <= _SPACE).astype(np.int32)
    widths = np.diff(ends, prepend=np.int32(-1))
    if len(ends) % len(COLUMNS) or widths.min() == 1:
        return None
    separators = chars[ends].reshape(-1, len(COLUMNS))
    inner = separators[:, :-1]
    if (separators[:, -1] != _NEWLINE).any() or not ((inner == _SPACE) | (inner == _TAB)).all():
        return None
    # The docids are cut out in one piece, each with the separator after it; no other column becomes strings.
    docids = chars[np.repeat(np.tile(_DOCID_ONLY, len(inner)), widths)].tobytes()
    docids = docids.replace(b"\t", b" ").decode().split(" ")
    ends = ends.reshape(-1, len(COLUMNS))
    try:
        scores = _scores(chars, ends[:, _RANK] + 1, ends[:, _SCORE])
    except ValueError:
        return None
    topics = list(SAME_TOPIC.finditer(data))
    rows = np.searchsorted(ends[:, -1], [topic.end() for topic in topics]).tolist()
    return [
        Stretch(topic[1].decode(), docids[first:after], scores[first:after], block.lines[first:after])
        for topic, first, after in zip(topics, [0, *rows], rows)
    ]


def _scores(chars: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> list[float]:
    """The numbers in chars[start:end]; ValueError if one is none."""
    starts, ends = starts.astype(np.intp), ends.astype(np.intp)
    negative = chars[starts] == _MINUS
    lengths = ends - starts
    mantissa = np.zeros(len(starts))
    digits = np.zeros(len(starts), np.uint8)
    dots = ends - 1  # where the decimal point is; at the last character if there is none
    at = starts + negative
    for _ in range(min(int(lengths.max()), _EXACT_DIGITS + 2)):  # digits, sign and point
        digit = chars[at] - np.uint8(_ZERO)  # not below 10 for any other character: unsigned numbers wrap
        is_digit = digit < 10
        mantissa = np.where(is_digit, mantissa * 10 + digit, mantissa)
        digits += is_digit
        dots = np.where(digit == np.uint8((_DOT - _ZERO) % 256), at, dots)
        at = np.minimum(at + 1, ends)
    has_dot = chars[dots] == _DOT
    simple = (digits + negative + has_dot == lengths) & (digits > 0) & (digits <= _EXACT_DIGITS)
    decimals = np.where(simple, ends - 1 - dots, 0)
    scores = (np.where(negative, -mantissa, mantissa) / _POWERS[decimals]).tolist()
    for row in np.flatnonzero(~simple).tolist():  # exponents, more digits, or no number
        scores[row] = parse_score(chars[starts[row] : ends[row]].tobytes())
    return scores
