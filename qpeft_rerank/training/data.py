"""What a training learns from, or chooses its best epoch by: a run with its topics and qrels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from qpeft_rerank.trec import Ranking


@dataclass(frozen=True)
class TrainingData:
    """A run with its topics (qid -> text) and qrels (qid -> docid -> grade). The run is read once."""

    run: Iterable[Ranking]
    topics: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]
