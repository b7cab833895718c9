"""What has no text, as the user hears of it: the first few by name, all by number."""

from __future__ import annotations

import logging

from qpeft_rerank.errors import MissingTopicError, QpeftError

_log = logging.getLogger(__name__)
SHOWN = 5  # lines about missing topics and passages; the rest is only counted


class Missing:
    """Says the first few missing topics and passages, and counts all."""

    def __init__(self) -> None:
        self.topics = self.passages = 0

    def add(self, error: QpeftError) -> None:
        """One more."""
        if isinstance(error, MissingTopicError):
            self.topics += 1
        else:
            self.passages += 1
        if self.topics + self.passages <= SHOWN:
            _log.info("skipped: %s", error)

    def report(self) -> None:
        """How many were missing, if any."""
        if self.topics or self.passages:
            kept = "they keep their old order, below what was scored"
            _log.info(
                "skipped %d topics and %d candidates without text; %s", self.topics, self.passages, kept
            )
