"""Scores as a written run needs them: strictly decreasing as float32, in the shortest digits that say so.

trec_eval holds a score as float32 and breaks ties by docid, so two scores that differ only as float64 would
be reordered by it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# float32 needs 6 to 9 significant digits.
_DIGITS = range(9, 5, -1)
# The powers of ten that are exact float64 numbers.
_POWERS = np.array([float(f"1e{power}") for power in range(23)])


def as_float32(scores: Sequence[float]) -> np.ndarray:
    """The scores as trec_eval holds them, float32 [n]; one that is too large becomes infinite, as there."""
    with np.errstate(over="ignore"):
        return np.array(scores, dtype=np.float64).astype(np.float32)


def is_decreasing(scores: np.ndarray) -> bool:
    """Whether each score is below the one before it."""
    return bool((scores[:-1] > scores[1:]).all())


def in_order(docids: Sequence[str], scores: Sequence[float]) -> tuple[Sequence[str], Sequence[float]]:
    """Documents and scores as trec_eval sorts them: by score as float32, then by docid, both descending."""
    rounded, scores = as_float32(scores), np.asarray(scores).tolist()
    if not is_decreasing(rounded):
        # Strings compare by code point, which is the byte order of their UTF-8 form.
        _, docids, scores = zip(*sorted(zip(rounded.tolist(), docids, scores), reverse=True))
    return docids, scores


def strictly_decreasing(scores: Sequence[float]) -> np.ndarray:
    """The scores as float32 [n]; one that is not below the one before it becomes the next float32 below.

    ValueError if a score is not finite or leaves the range of float32.
    """
    rounded = as_float32(scores)
    if not np.isfinite(rounded).all():
        raise ValueError("a score is not a finite float32 number")
    if is_decreasing(rounded):
        return rounded
    # Neighbouring float32 numbers have neighbouring bit patterns: as integers, "below the one before" is a
    # running minimum of value + position.
    bits = rounded.view(np.int32).astype(np.int64)
    order = np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    position = np.arange(len(order))
    order = np.minimum.accumulate(order + position) - position
    bits = np.where(order < 0, -order | 0x80000000, order)
    lowered = bits.astype(np.uint32).view(np.float32)
    if not np.isfinite(lowered).all():
        raise ValueError("the scores cannot be told apart above the lowest float32 number")
    return lowered


def shortest_digits(scores: np.ndarray) -> list[str]:
    """For each float32, the shortest decimal number that a reader rounds to that float32 again."""
    exact = scores.astype(np.float64)
    size = np.abs(exact)
    power = np.floor(np.log10(size, where=size > 0, out=np.zeros_like(size))).astype(np.int64)
    short = exact
    for digits in _DIGITS:
        scale = _POWERS[np.clip(digits - 1 - power, 0, len(_POWERS) - 1)]
        candidate = np.rint(exact * scale) / scale
        short = np.where(candidate.astype(np.float32) == scores, candidate, short)
    values = short.tolist()
    # Outside of this range, the powers of ten are below one or not exact: NumPy's own slower way.
    for row in np.flatnonzero((size >= 1e6) | (size < 1e-13) & (size > 0)).tolist():
        values[row] = float(str(scores[row]))
    return list(map(repr, values))
