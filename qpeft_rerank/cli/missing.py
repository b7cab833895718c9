"""What has no text, or found nothing, as the user hears of it: the first few by name, all by number."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from qpeft_rerank.errors import MissingPassageError, QpeftError

if TYPE_CHECKING:
    from qpeft_rerank.rankings import Ranking

_log = logging.getLogger(__name__)
SHOWN = 5  # lines about missing topics and passages; the rest is only counted


def report_empty(rankings: Iterable[Ranking]) -> Iterator[Ranking]:
    """The rankings of a first stage; at their end, how many topics found nothing, if any."""
    empty: list[str] = []
    total = 0
    for ranking in rankings:
        total += 1
        if not ranking.docs:
            empty.append(ranking.qid)
        yield ranking
    if empty:
        _log.info("%d of %d topics found nothing, such as %r", len(empty), total, empty[0])


class Missing:
    """Says the first few missing topics and passages, and counts all.

    Args:
        summary: what is said of all of them, with a place for the number of topics and for that of passages.
    """

    def __init__(self, summary: str) -> None:
        self.topics = self.passages = 0
        self.summary = summary

    def add(self, error: QpeftError) -> None:
        """One more."""
        if isinstance(error, MissingPassageError):
            self.passages += 1
        else:
            self.topics += 1
        if self.topics + self.passages <= SHOWN:
            _log.info("skipped: %s", error)

    def report(self) -> None:
        """How many were missing, if any."""
        if self.topics or self.passages:
            _log.info(self.summary, self.topics, self.passages)
