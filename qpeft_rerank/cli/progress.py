"""Progress on stderr: a bar on a terminal; elsewhere (a log file, a batch system) a line now and then."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, TypeVar

Item = TypeVar("Item")
# A log file gets nothing for short work and a line a minute for long work.
SECONDS_BETWEEN_LINES = 60.0
# Pairs are scored longest first within a window: the rate of the last seconds says little about the rest,
# that of all does.
SMOOTHING = 0


def progress_bar(what: str, unit: str, total: float | None = None) -> Any:
    """A tqdm bar with `update(n)` and `close()`; a context manager."""
    from tqdm import tqdm

    if os.environ.get("RANK", "0") != "0":  # torchrun starts many of us; the first one speaks
        return tqdm(disable=True)
    if sys.stderr.isatty():
        return tqdm(desc=what, unit=unit, total=total, smoothing=SMOOTHING, dynamic_ncols=True)
    return tqdm(
        desc=what,
        unit=unit,
        total=total,
        smoothing=SMOOTHING,
        ascii=True,
        ncols=100,
        file=_Lines(sys.stderr),
        delay=SECONDS_BETWEEN_LINES,
        mininterval=SECONDS_BETWEEN_LINES,
    )


def with_progress(items: Iterable[Item], what: str, unit: str, total: float | None = None) -> Iterator[Item]:
    """The items, with a bar that advances by one once an item has been used."""
    with progress_bar(what, unit, total) as bar:
        for item in items:
            yield item
            bar.update()


class _Lines:
    """A stream on which each state of a bar is a line of its own; tqdm would write all over one line."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> None:
        """Write ``text`` as a line, if there is any."""
        if text.strip():
            self.stream.write(text.strip() + "\n")

    def flush(self) -> None:
        """Flush the stream."""
        self.stream.flush()
