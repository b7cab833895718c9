"""`Reranker`: a model with its adapter that scores (query, passage) pairs; the one object a notebook needs.

from qpeft_rerank import Reranker
reranker = Reranker.from_adapter("my-adapter")
for docid, score in reranker.rerank("what is a waggle dance", searcher.search("waggle dance", k=100)):
    ...
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from qpeft_rerank.errors import InputError, named_pairs
from qpeft_rerank.fusion import interpolated
from qpeft_rerank.models.adapter import load_adapter
from qpeft_rerank.models.base import BaseModel, load_base
from qpeft_rerank.models.config import UNTRAINED_WEIGHT, AdapterConfig
from qpeft_rerank.models.explain import Explanation, explain
from qpeft_rerank.models.methods import make_scorer
from qpeft_rerank.models.scorer import Scorer
from qpeft_rerank.passages import Passage, passage_of_hit
from qpeft_rerank.rankings import ScoredDoc
from qpeft_rerank.scoring import default_limits, score_inputs

WINDOW_PAIRS = 800  # enough to sort by length without much padding, few enough to lose little in a crash
MOST_PAIRS = 32_000  # more would save little, and the tokens of so many pairs take memory
CPU_RATE, GPU_RATE = 2e11, 1e14  # operations per second that are surely reached
TOKENS_PER_PAIR = 40  # a query, its hints and their frame, where the passage is shared


Progress = Callable[[int], None]
Scoring = Callable[[Progress | None], np.ndarray]
"""The rest of the work on pairs that were begun: gives their scores."""


class PairScorer(Protocol):
    """Anything that scores pairs: the `rerank` stage asks for no more. It may also have

    * ``begin(pairs)``, a `Scoring`: what does not need the model (texts to tokens) is then done in another
      thread for the next pairs, while these are scored;
    * ``ahead``: how many windows of pairs to begin before the first is scored, by default one;
    * ``weight``: its share in a candidate's score, by default 1;
    * ``shared_pairs``: how many pairs to score together where topics share passages;
    * ``topics_together(topics, passages)``: how many topics to score together, by the passages of the first,
      where it would be ``topics`` otherwise;
    * ``describe()``: what scores depend on besides the pairs, JSON-ready, for records and for resuming.
    """

    def score(self, pairs: Sequence[tuple[str, Passage]], progress: Progress | None = None) -> np.ndarray:
        """A float32 score for each (query, passage), higher is better; ``progress`` hears of finished
        pairs.
        """
        ...


def begin(scorer: PairScorer, pairs: Sequence[tuple[str, Passage]]) -> Scoring:
    """Begin with pairs as far as the scorer can."""
    return scorer.begin(pairs) if hasattr(scorer, "begin") else partial(scorer.score, pairs)


class Reranker:
    """Scores pairs by query likelihood, or as another method does.

    Args:
        scorer: base model and adapter.
        batch_tokens: positions in a batch; by default what fits the device.
        batch_size: most pairs in a batch.

    Attributes:
        weight: the model's share, 0 to 1, in a candidate's score; the first stage has the rest. An adapter
            brings the share that its training chose on development topics. 1 ranks by the model alone.
    """

    def __init__(self, scorer: Scorer, batch_tokens: int | None = None, batch_size: int | None = None):
        self.scorer = scorer
        self.weight = UNTRAINED_WEIGHT if scorer.weight is None else scorer.weight
        self.limits = default_limits(scorer.base, batch_tokens, batch_size)

    def describe(self) -> dict[str, Any]:
        """What scores depend on besides the pairs, JSON-ready: base model, settings, trained weights."""
        trained = hashlib.sha256()
        for name, parameter in sorted(self.scorer.trained_parameters().items()):
            trained.update(name.encode() + parameter.detach().cpu().numpy().tobytes())
        return {
            "base_model": self.scorer.base.describe(),
            "base_sha256": self.scorer.base.sha256(),
            "settings": self.scorer.config.to_dict(),
            "trained_sha256": trained.hexdigest(),
            "weight": self.weight,
        }

    @property
    def shared_pairs(self) -> int:
        """How many pairs to score together where topics share passages: about a minute's work.

        That much a kill may lose. It depends on the model's size and the kind of device alone, so that a
        resumed run forms the same batches.
        """
        if not self.scorer.can_share:
            return WINDOW_PAIRS
        rate = GPU_RATE if self.scorer.base.device.type == "cuda" else CPU_RATE
        parameters = sum(p.numel() for p in self.scorer.model.parameters())
        return int(min(MOST_PAIRS, max(WINDOW_PAIRS, 60 * rate / (2 * parameters * TOKENS_PER_PAIR))))

    @classmethod
    def from_adapter(
        cls, name: str | Path, batch_tokens: int | None = None, batch_size: int | None = None, **options: Any
    ) -> Reranker:
        """From an adapter folder or hub name; ``options`` as for `load_adapter`.

        A LoRA is merged into the model (`Lora.merge`), unless that is given as ``base``.
        """
        scorer = load_adapter(name, **options)
        if options.get("base") is None and scorer.lora is not None:
            scorer.lora.merge()
        return cls(scorer, batch_tokens, batch_size)

    @classmethod
    def from_model(
        cls,
        model: str | Path | BaseModel,
        method: str = "hard-prompt",
        batch_tokens: int | None = None,
        batch_size: int | None = None,
        settings: dict[str, Any] | None = None,
        **options: Any,
    ) -> Reranker:
        """Without an adapter: a method that needs no training (``hard-prompt``); ``options`` as for
        `load_base`.

        Raises:
            InputError: the method, or a setting, has weights to train: they would be random.
        """
        config = AdapterConfig(method=method, **(settings or {}))
        if config.trainable:
            raise InputError(f"the method {method} must be trained: name its adapter with from_adapter")
        base = model if isinstance(model, BaseModel) else load_base(model, **options)
        return cls(make_scorer(base, config), batch_tokens, batch_size)

    def score(self, pairs: Sequence[tuple[str, Passage]], progress: Progress | None = None) -> np.ndarray:
        """Mean log-likelihood of each query given its passage, float32, in nats per token; at most 0. Of the
        method rankllama: any number.

        Raises:
            PairError: a pair that does not fit; ``index`` says which.
        """
        return self.begin(pairs)(progress)

    def begin(self, pairs: Sequence[tuple[str, Passage]]) -> Scoring:
        """Tokenise the pairs; see `score` for what the result gives. May be called from any thread.

        Raises:
            PairError: a pair that does not fit the model; ``index`` says which.
        """
        inputs = self.scorer.encoder.encode(pairs)

        def score(progress: Progress | None = None) -> np.ndarray:
            if not inputs:
                return np.empty(0, dtype=np.float32)
            return score_inputs(self.scorer, inputs, self.limits, progress)

        return score

    def rerank(self, query: str, hits: Iterable[Any]) -> list[ScoredDoc]:
        """Re-order the hits of one query.

        Args:
            query: its text.
            hits: what Pyserini's `LuceneSearcher.search` gives (its index must store the text), or
                `Passage`s, which have no first score: they are ranked by the model alone.

        Returns:
            (docid, score), best first; equal scores keep the order of ``hits``.

        Raises:
            InputError: the query is blank, or a hit has no text. PairError: a pair that does not fit.
        """
        _check_query(query)
        hits = list(hits)
        passages = [_passage(hit) for hit in hits]
        with named_pairs([(None, passage.docid) for passage in passages]):
            scores = self.score([(query, passage) for passage in passages])
        if self.weight < 1 and all(hasattr(hit, "score") for hit in hits):
            scores = interpolated(np.array([hit.score for hit in hits]), scores, self.weight)
        order = np.argsort(-scores, kind="stable")
        return [ScoredDoc(passages[i].docid, float(scores[i])) for i in order]

    def explain(self, query: str, passage: Any) -> Explanation:
        """The likelihood of each query token given the passage (or hit, as for `rerank`), and the hints.

        Raises:
            InputError: the query is blank, the hit has no text, or the method is no query likelihood.
            PairError: the pair does not fit.
        """
        _check_query(query)
        return explain(self.scorer, query, _passage(passage))


def _check_query(query: str) -> None:
    if not query.strip():
        raise InputError("the query is blank: there is nothing to rank by")


def _passage(hit: Any) -> Passage:
    return hit if isinstance(hit, Passage) else passage_of_hit(hit)
