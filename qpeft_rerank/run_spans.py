"""Where the topics of a run file lie: a quick first look, to read lines in any order by topic."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO

from qpeft_rerank.columns import SAME_TOPIC, Block, read_blocks
from qpeft_rerank.files import Source, open_bytes, source_name


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

    def blocks_by_topic(self, stream: BinaryIO) -> Iterator[Block]:
        """The spans as blocks, those of a topic after each other, topics as they first appear."""
        topics: dict[bytes, array] = {}
        for number, qid in enumerate(self.qids):
            topics.setdefault(qid, array("q")).append(number)
        ends = self.starts[1:]
        ends.append(self.end)
        for number in chain.from_iterable(topics.values()):
            stream.seek(self.starts[number])
            data = stream.read(ends[number] - self.starts[number])
            if not data.endswith(b"\n"):  # the last line of the file
                data += b"\n"
            yield Block(data, self.lines[number], self.starts[number])


def find_spans(source: Source) -> Spans:
    """Look through a run for its spans. Only the first column is read; wrong lines are left to the reader."""
    spans = Spans()
    known: dict[bytes, bytes] = {}  # one object for each qid, however many spans it has
    last = first = None
    with open_bytes(source, "run file") as stream:
        for data, line, offset in read_blocks(stream, source_name(source)):
            first, counted = offset if first is None else first, 0
            for lines in SAME_TOPIC.finditer(data):
                if lines[1] != last:
                    last = known.setdefault(lines[1], lines[1])
                    line += data.count(b"\n", counted, lines.start())
                    counted = lines.start()
                    spans.qids.append(last)
                    spans.starts.append(offset + counted)
                    spans.lines.append(line)
            spans.end = offset + len(data)
    if spans.qids:  # blank or wrong lines in front belong to the first span
        spans.starts[0], spans.lines[0] = first, 1
    return spans
