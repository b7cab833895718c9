"""What a training learns from, or chooses its best epoch by: a run with its topics and qrels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from qpeft_rerank.errors import InputError
from qpeft_rerank.files import start_of_message
from qpeft_rerank.rankings import Ranking
from qpeft_rerank.topics import Topics, as_topics
from qpeft_rerank.trec import Qrels, Run, as_qrels, as_rankings


@dataclass(frozen=True)
class TrainingData:
    """A run with its topics (qid -> text) and qrels (qid -> docid -> grade).

    Each may be given as a file too, topics and qrels by a name that Pyserini knows. A run that is a file, a
    list or a dictionary may serve any number of trainings; stdin and an iterator can be gone through once.

    Raises:
        InputError: a file cannot be read, or the qrels are empty. An empty run is one where it is read.
    """

    run: Run
    topics: Topics
    qrels: Qrels

    def __post_init__(self) -> None:
        qrels = as_qrels(self.qrels)
        if not qrels:
            raise InputError(f"{start_of_message(self.qrels)}the qrels are empty")
        as_rankings(self.run)  # says now what is no run; a file is not opened yet
        run = self.run if isinstance(self.run, _Run) else _Run(self.run)
        for name, value in (("run", run), ("topics", as_topics(self.topics)), ("qrels", qrels)):
            object.__setattr__(self, name, value)


class _Run:
    """A run that is read anew whenever it is gone through: a large one need not be held in memory."""

    def __init__(self, given: Run):
        self._given, self._read = given, False

    def __iter__(self) -> Iterator[Ranking]:
        before, self._read, empty = self._read, True, True
        for ranking in as_rankings(self._given):
            empty = False
            yield ranking
        if empty:
            again = " (it was read before: give a file or a list)" if before else ""
            raise InputError(f"{start_of_message(self._given)}the run is empty{again}")
