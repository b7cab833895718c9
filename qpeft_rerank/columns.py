"""Lines of white-space separated columns, read in large blocks: the ground under run and qrels files.

White space is what trec_eval's C code takes for it (the ASCII kinds), so ids may hold any other character.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from qpeft_rerank.errors import FormatError

BUFFER = 1 << 20  # bytes read at once: enough to hide what NumPy's calls cost, few enough for the caches
# No line of a run or qrels file comes near this; a binary file without line ends must not fill the memory.
_LONGEST_LINE = 1 << 20
# The largest float32, which is what trec_eval holds scores in.
_LARGEST_SCORE = (2 - 2**-23) * 2.0**127


class Block(NamedTuple):
    """Whole lines with their line ends, their numbers (from 1), and where the first one starts, in bytes."""

    data: bytes
    lines: Sequence[int]
    offset: int


class Stretch(NamedTuple):
    """Lines of one topic that follow each other: of each line its docid, score or grade, and line number."""

    qid: str
    docids: list[str]
    values: list | np.ndarray
    lines: Iterable[int]


def read_blocks(stream: io.BufferedReader, name: str) -> Iterator[Block]:
    """Yield the stream in blocks of whole lines, as soon as they arrive.

    Raises FormatError for a NUL byte, for bytes that are not UTF-8 and for a line without end.
    """
    _keep_freed_memory()
    line, offset, rest = 1, 0, b""
    while True:
        chunk = stream.read1(BUFFER)
        # At the end of the file, the last line may lack its line end.
        data = rest + (chunk or b"\n" if rest else chunk)
        if not data:
            return
        if not offset and data.startswith(b"\xef\xbb\xbf"):  # byte order mark
            data, offset = data[3:], 3
        cut = data.rfind(b"\n") + 1
        data, rest = data[:cut], data[cut:]
        if len(rest) > _LONGEST_LINE:
            raise FormatError(name, line + data.count(b"\n"), "a line of more than 1 MB: not a TREC file")
        if data:
            _check_text(data, line, name)
            lines = range(line, line + count_lines(data))
            yield Block(data, lines, offset)
            line = lines.stop
            offset += len(data)


def _keep_freed_memory() -> None:
    """Let blocks follow each other in the same memory.

    glibc gives pieces of this size back to the system when they are freed, so that every block would wait for
    fresh pages, a fifth of the time. Once one larger piece was freed, it keeps those below (mallopt(3)). The
    piece itself is never touched and takes no memory.
    """
    np.empty(4 * BUFFER, np.uint8)


def count_lines(data: bytes, start: int = 0, end: int | None = None) -> int:
    """The line ends in data[start:end]: faster than bytes.count where lines are as short as here."""
    return int(np.count_nonzero(np.frombuffer(data, np.uint8)[start:end] == ord("\n")))


def _check_text(data: bytes, line: int, name: str) -> None:
    if (nul := data.find(b"\0")) >= 0:
        raise FormatError(name, line + data.count(b"\n", 0, nul), "a NUL byte: binary data, not a TREC file")
    if not data.isascii():
        try:
            data.decode("utf-8")
        except UnicodeDecodeError as error:
            at = line + data.count(b"\n", 0, error.start)
            raise FormatError(name, at, f"not UTF-8 text ({error.reason})") from None


def parse_lines(block: Block, name: str, columns: Sequence[str], value: str) -> Iterator[Stretch]:
    """Split a block line by line, with every check.

    ``columns`` are the names of the columns that each line must have, among them qid, docid and ``value``,
    which is score, rank (1 / rank becomes the score) or grade.
    """
    number = _NUMBERS[value]
    qid_at, docid_at, value_at = (columns.index(column) for column in ("qid", "docid", value))
    stretch, last = None, None
    for line, text in zip(block.lines, block.data.split(b"\n")):
        fields = text.split()
        if not fields:
            continue
        if len(fields) != len(columns):
            expected = f"expected {len(columns)} columns ({' '.join(columns)})"
            raise FormatError(name, line, f"{expected}, found {len(fields)}")
        try:
            parsed = number(fields[value_at])
        except ValueError as error:
            raise FormatError(name, line, str(error)) from None
        if fields[qid_at] != last:
            if stretch:
                yield stretch
            last = fields[qid_at]
            stretch = Stretch(last.decode(), [], [], [])
        stretch.docids.append(fields[docid_at].decode())
        stretch.values.append(parsed)
        stretch.lines.append(line)
    if stretch:
        yield stretch


def parse_score(field: bytes) -> float:
    """A score as trec_eval would read it; ValueError for what is no finite number there."""
    try:
        score = float(field)
    except ValueError:
        score = None
    if score is None or b"_" in field:  # Python, not C, reads 1_000
        raise ValueError(f"the score {field.decode()!r} is not a number")
    if not abs(score) <= _LARGEST_SCORE:  # NaN compares false
        raise ValueError(f"the score {field.decode()!r} is not a finite float32 number")
    return score


def parse_rank(field: bytes) -> float:
    """The score 1 / rank of a rank from 1; ValueError for anything else."""
    try:
        rank = parse_score(field)
    except ValueError:
        rank = 0
    if rank < 1 or rank % 1:
        raise ValueError(f"the rank {field.decode()!r} is not a whole number from 1")
    return 1 / rank


def parse_grade(field: bytes) -> int:
    """A relevance grade, an integer, perhaps negative; ValueError for anything else."""
    if not re.fullmatch(rb"[+-]?[0-9]{1,9}", field):
        raise ValueError(f"the grade {field.decode()!r} is not an integer")
    return int(field)


_NUMBERS: dict[str, Callable[[bytes], float]] = {
    "score": parse_score,
    "rank": parse_rank,
    "grade": parse_grade,
}
