"""What a training learns from, or chooses its best epoch by: a run with its topics and qrels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from qpeft_rerank.files import Source
from qpeft_rerank.topics import as_topics
from qpeft_rerank.trec import Ranking, as_qrels, as_rankings


@dataclass(frozen=True)
class TrainingData:
    """A run with its topics (qid -> text) and qrels (qid -> docid -> grade). The run is read once.

    Each may be given as a file too, topics and qrels by a name that Pyserini knows.
    """

    run: Source | Iterable[Ranking]
    topics: Source | Mapping[str, str]
    qrels: Source | Mapping[str, Mapping[str, int]]

    def __post_init__(self) -> None:
        for name, read in (("run", as_rankings), ("topics", as_topics), ("qrels", as_qrels)):
            object.__setattr__(self, name, read(getattr(self, name)))
