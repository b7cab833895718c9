"""What the best epoch is chosen by: the loss on fixed development groups, or measures of the reranked run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch

from qpeft_rerank.evaluation import evaluate
from qpeft_rerank.fusion import FusionConfig, pool_runs
from qpeft_rerank.fusion_weights import Tuning, tune_weights
from qpeft_rerank.models.adapter import keep_weight
from qpeft_rerank.passages import Passages
from qpeft_rerank.rankings import Ranking
from qpeft_rerank.reranking import rerank
from qpeft_rerank.training.config import TrainingConfig
from qpeft_rerank.training.data import TrainingData
from qpeft_rerank.training.folder import DEV_RUN_FILE
from qpeft_rerank.training.groups import (
    OnMissing,
    TrainingTopic,
    check_passages,
    epoch_groups,
    stop,
    training_topics,
    with_passages,
)
from qpeft_rerank.training.objective import Objective, PairObjective, RerankingObjective
from qpeft_rerank.training.step import memory_told
from qpeft_rerank.trec import write_run


class Choice(Protocol):
    """What the best epoch of a training is chosen by; it says itself what it needs of the `Objective`."""

    def loss(self, objective: Any) -> float:
        """A development loss; smaller is better."""
        ...

    def measure(self, objective: Any) -> dict[str, float]:
        """Measures, by name; asked for only where an epoch is chosen by one."""
        ...

    def write(self, objective: Any, output: Path) -> dict[str, float]:
        """Write what is to be kept of the best epoch's development data; returns its measures."""
        ...


class Development:
    """Fixed development groups and rankings, and what a model makes of them.

    Args:
        dev: run, topics and qrels, of which a sample is taken.
        passages: texts of the candidates and of the relevant passages.
        training: the training's settings.
        depth: how many candidates of a topic are reranked.
        on_missing: hears of topics and passages that have no text; what it does not raise is left out.

    Raises:
        InputError: no topic can be used.
    """

    def __init__(
        self,
        dev: TrainingData,
        passages: Passages,
        training: TrainingConfig,
        depth: int,
        on_missing: OnMissing = stop,
    ):
        self.training, self.passages, self.depth, self.queries = training, passages, depth, dev.topics
        rankings = list(dev.run)
        sample = training_topics(
            rankings,
            dev.topics,
            dev.qrels,
            training.dev_topics,
            training.seed,
            training.negative_depth,
            training.relevance_level,
            on_missing,
        )
        # Where nothing is skipped, only what is used need be there: not every negative down to the depth.
        self.missing = "error" if on_missing is stop else "skip"
        self.topics: list[TrainingTopic] = sample
        if self.missing == "skip":
            self.topics = with_passages(sample, passages, on_missing)
        kept = {topic.qid for topic in self.topics}
        self.rankings = [ranking for ranking in rankings if ranking.qid in kept]
        self.qrels = {qid: dict(grades) for qid, grades in dev.qrels.items() if qid in kept}
        self.groups = epoch_groups(self.topics, training.negatives, training.seed, None)
        wanted = [(group.topic.qid, [group.positive, *group.negatives]) for group in self.groups]
        wanted += [(qid, [doc.docid for doc in docs[:depth]]) for qid, docs in self.rankings]
        check_passages(wanted, passages, on_missing)
        self.measures = ["nDCG@10", "RR@10"]
        if training.select != "loss" and training.select not in self.measures:
            self.measures.insert(0, training.select)

    def loss(self, objective: Objective) -> float:
        """Mean training loss over the development groups, without dropout."""
        objective.scorer.eval()
        rows = self.training.batch_size
        total = 0.0
        with torch.inference_mode():
            for start in range(0, len(self.groups), rows):
                part = self.groups[start : start + rows]
                with memory_told(rows):
                    loss = objective.loss(objective.module, part)
                total += loss.item() * len(part)
        return total / len(self.groups)

    def measure(self, objective: RerankingObjective) -> dict[str, float]:
        """Means of the measures over the sampled development topics."""
        return self._measure(self._rerank(objective))

    def write(self, objective: RerankingObjective, output: Path) -> dict[str, float]:
        """Write the development run as the model reranks it; returns its measures."""
        rankings = list(self._rerank(objective))
        write_run(rankings, output / DEV_RUN_FILE, tag=objective.scorer.config.method)
        measures = self._measure(rankings)
        if isinstance(objective, PairObjective):
            tuning = self._tune(rankings)
            weights, value = tuning.chosen
            keep_weight(output, weights[1])
            measures |= {"weight": weights[1], f"{tuning.measure} with weight": value}
        return measures

    def _tune(self, reranked: list[Ranking]) -> Tuning:
        """The tuned share of the model in a candidate's score; the first stage has the rest."""
        first = [Ranking(r.qid, r.docs[: self.depth]) for r in self.rankings]
        scored = [Ranking(r.qid, r.docs[: self.depth]) for r in reranked]
        pools = list(pool_runs([first, scored], FusionConfig("interpolation", "z-score")))
        measure = "nDCG@10" if self.training.select == "loss" else self.training.select
        return tune_weights(pools, self.qrels, measure)

    def _rerank(self, objective: RerankingObjective) -> Iterator[Ranking]:
        objective.scorer.eval()
        return rerank(
            self.rankings,
            self.queries,
            self.passages,
            objective.pair_scorer(),
            self.depth,
            self.missing,
            weight=1.0,
        )

    def _measure(self, rankings: Iterable[Ranking]) -> dict[str, float]:
        return evaluate(list(rankings), self.qrels, self.measures).means
