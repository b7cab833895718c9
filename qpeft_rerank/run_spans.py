"""Where the topics of a run file lie: a quick first look, to read lines in any order by topic."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from typing import BinaryIO

from qpeft_rerank.columns import Block, count_lines, read_blocks
from qpeft_rerank.files import Source, open_bytes, source_name
from qpeft_rerank.run_topics import find_topics


class Spans:
    """For each span of lines with one qid: the qid, the first byte and the first line (from 1).

    The memory grows with the number of spans: with the topics of a sorted run, with the lines of a shuffled
    one.
    """

    def __init__(self) -> None:
        self.qids: list[bytes] = []
        self.starts, self.lines = array("q"), array("q")
        self.end = 0

    @property
    def topics(self) -> int:
        return len(set(self.qids))

    @property
    def contiguous(self) -> bool:
        """Whether no topic returns after another one."""
        return self.topics == len(self.qids)

    def blocks_by_topic(self, file: BinaryIO) -> Iterator[Block]:
        """The lines of each topic as one block, topics as they first appear. ``file`` needs a descriptor."""
        topics: dict[bytes, array] = {}
        for number, qid in enumerate(self.qids):
            topics.setdefault(qid, array("q")).append(number)
        ends = self.starts[1:]
        ends.append(self.end)
        for numbers in topics.values():
            pieces, lines = [], array("q")
            for number in numbers:
                # Not through the file's buffer, which would be filled anew for each of many short spans.
                piece = os.pread(file.fileno(), ends[number] - self.starts[number], self.starts[number])
                if not piece.endswith(b"\n"):  # the last line of the file
                    piece += b"\n"
                pieces.append(piece)
                lines.extend(range(self.lines[number], self.lines[number] + piece.count(b"\n")))
            yield Block(b"".join(pieces), lines, self.starts[numbers[0]])


def find_spans(source: Source) -> Spans:
    """Look through a run for its spans. Only the first column is read; wrong lines are left to the reader."""
    spans = Spans()
    known: dict[bytes, bytes] = {}  # one object for each qid, however many spans it has
    last = first = None
    with open_bytes(source, "run file") as stream:
        for data, numbers, offset in read_blocks(stream, source_name(source)):
            first, line, counted = offset if first is None else first, numbers[0], 0
            for qid, start in find_topics(data):
                if qid != last:
                    last = known.setdefault(qid, qid)
                    line += count_lines(data, counted, start)
                    counted = start
                    spans.qids.append(last)
                    spans.starts.append(offset + counted)
                    spans.lines.append(line)
            spans.end = offset + len(data)
    if spans.qids:  # blank or wrong lines in front belong to the first span
        spans.starts[0], spans.lines[0] = first, 1
    return spans
