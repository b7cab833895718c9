"""Why a pair has its score: the likelihood of each query token, and what the hints stand for."""

from __future__ import annotations

from typing import NamedTuple

import torch

from qpeft_rerank.errors import InputError, named_pairs
from qpeft_rerank.models.batch import collate
from qpeft_rerank.models.hints import AttendedHints, Pairs
from qpeft_rerank.models.likelihood import QueryLikelihood
from qpeft_rerank.models.scorer import Scorer
from qpeft_rerank.passages import Passage


class Explanation(NamedTuple):
    """Attributes:
    score: mean of the tokens' log-likelihoods.
    tokens: each scored token of the query (and the end) with its log-likelihood, in nats.
    hints: the hint tokens, best first; for Q-PEFT-A, per query token the passage token that it attends to
        most. Empty if no token of the passage may be a hint.
    """

    score: float
    tokens: list[tuple[str, float]]
    hints: list[str]


def explain(scorer: Scorer, query: str, passage: Passage) -> Explanation:
    """Explain one pair. The score is the one that `Reranker.score` gives.

    Raises:
        InputError: the score is not made of the query tokens' likelihoods.
        PairError: the pair does not fit the model.
    """
    if not isinstance(scorer, QueryLikelihood):
        raise InputError(f"method {scorer.config.method!r} cannot be explained: it is no query likelihood")
    encoder = scorer.encoder
    with named_pairs([(None, passage.docid)]):
        pair = encoder.encode([(query, passage)])[0]
    batch = collate([pair], encoder.pad).to(scorer.base.device)
    with torch.inference_mode():
        values = scorer.token_log_likelihoods(batch).tolist()
        ids = _hint_ids(scorer, batch.pairs)
    decode = encoder.tokenizer.decode
    scored = pair.after[len(pair.after) - pair.scored :]
    tokens = [
        (decode([i]).strip() or repr(decode([i])), value) for i, value in zip(scored, values, strict=True)
    ]
    return Explanation(sum(values) / len(values), tokens, [decode([i]).strip() for i in ids])


def _hint_ids(scorer: QueryLikelihood, pairs: Pairs) -> list[int]:
    block = scorer.hints
    if block is None:
        return []
    if isinstance(block, AttendedHints):
        # Without a token to attend to, all hints are masked: the model sees none.
        return block.most_attended(pairs)[0].tolist() if pairs.candidate[0].any() else []
    ids, mask = block.pick(pairs)
    return ids[0][mask[0]].tolist()
