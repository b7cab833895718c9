"""What the best epoch is chosen by: the loss on fixed development groups, or measures of the reranked run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch

from qpeft_rerank.evaluation import evaluate
from qpeft_rerank.models.likelihood import QueryLikelihood
from qpeft_rerank.passages import Passages
from qpeft_rerank.reranker import Reranker
from qpeft_rerank.reranking import rerank
from qpeft_rerank.scoring import BatchLimits
from qpeft_rerank.training.config import TrainingConfig
from qpeft_rerank.training.groups import TrainingTopic, epoch_groups, step_pairs, training_topics
from qpeft_rerank.training.step import PairLosses, memory_told, step_loss
from qpeft_rerank.trec import Ranking


@dataclass(frozen=True)
class Judged:
    """A run with its topics and qrels: what one learns from, or chooses by."""

    run: Iterable[Ranking]
    topics: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]


class Development:
    """Fixed development groups and rankings, and what a scorer makes of them."""

    def __init__(
        self, dev: Judged, passages: Passages, training: TrainingConfig, depth: int, limits: BatchLimits
    ):
        self.training, self.passages, self.depth, self.queries = training, passages, depth, dev.topics
        self.limits = limits
        rankings = list(dev.run)
        self.topics: list[TrainingTopic] = training_topics(
            rankings, dev.topics, dev.qrels, training.dev_topics, training.seed, training.negative_depth
        )
        kept = {topic.qid for topic in self.topics}
        self.rankings = [ranking for ranking in rankings if ranking.qid in kept]
        self.qrels = {qid: dict(grades) for qid, grades in dev.qrels.items() if qid in kept}
        self.measures = ["nDCG@10", "RR@10"]
        if training.select != "loss" and training.select not in self.measures:
            self.measures.insert(0, training.select)

    def loss(self, scorer: QueryLikelihood) -> float:
        """Mean training loss over the development groups, without dropout."""
        scorer.eval()
        rows = self.training.batch_size
        groups = epoch_groups(self.topics, self.training.negatives, self.training.seed, None)
        total = 0.0
        with torch.inference_mode():
            for start in range(0, len(groups), rows):
                part = groups[start : start + rows]
                step = step_pairs(part, self.passages, self.training.in_batch)
                with memory_told(rows):
                    loss = step_loss(PairLosses(scorer), scorer, step, self.training.margin, self.limits)
                total += loss.item() * len(part)
        return total / len(groups)

    def rerank(self, scorer: QueryLikelihood) -> Iterator[Ranking]:
        """The development run, reranked."""
        scorer.eval()
        reranker = Reranker(scorer, self.limits.tokens, self.limits.pairs)
        return rerank(self.rankings, self.queries, self.passages, reranker, self.depth)

    def measure(self, rankings: Iterable[Ranking]) -> dict[str, float]:
        """Means of the measures over the sampled development topics."""
        return evaluate(list(rankings), self.qrels, self.measures).means
