"""Scoring and training as the published research code does it, on current transformers: what we compare with.

From github.com/zhiyuanpeng/Q-PEFT, commit 4c075c8, described here and written anew: pairs in the order they
come, in batches of a fixed size, padded on the left with an attention mask; hints found row by row in Python;
logits for every position, turned into fp32; the loss of all positions. In training, a positive runs again for
each of its negatives.

It takes a scorer's own weights, input layout and tokens, so that its scores can be compared with the
scorer's. Three things favour it: a text is tokenised once, not once for each pair; no file is read; where the
published code sorts all (query token, passage token) pairs, it sorts passage tokens by their best.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from qpeft_rerank.models.hints import HintBlock
from qpeft_rerank.models.inputs import PairInput
from qpeft_rerank.models.likelihood import QueryLikelihood
from qpeft_rerank.models.selection import similarity, without_rounding_noise
from qpeft_rerank.passages import Passage
from qpeft_rerank.training.groups import StepPairs

IGNORED = -100  # cross_entropy's label for positions that do not count


def plain_scores(
    scorer: QueryLikelihood, pairs: Sequence[tuple[str, Passage]], batch_size: int
) -> np.ndarray:
    """Mean log-likelihood of each query given its passage, float32, as `Reranker.score` gives it."""
    scores: list[float] = []
    with torch.no_grad():
        for start in range(0, len(pairs), batch_size):
            scores += (-plain_losses(scorer, pairs[start : start + batch_size])).tolist()
    return np.array(scores, dtype=np.float32)


def plain_step_loss(scorer: QueryLikelihood, step: StepPairs, margin: float) -> Tensor:
    """The loss of a training step; a topic's comparisons are one batch, both passages of each run."""
    positive, negative = [], []
    for place in dict.fromkeys(step.positive):
        compared = [n for p, n in zip(step.positive, step.negative, strict=True) if p == place]
        batch = [step.pairs[place]] * len(compared) + [step.pairs[n] for n in compared]
        losses = plain_losses(scorer, batch)
        positive.append(losses[: len(compared)])
        negative.append(losses[len(compared) :])
    good, bad = torch.cat(positive), torch.cat(negative)
    return (good - bad + margin).clamp(min=0).mean() + good.mean()


def plain_losses(scorer: QueryLikelihood, pairs: Sequence[tuple[str, Passage]]) -> Tensor:
    """Negative mean log-likelihood of one batch of pairs [B], fp32."""
    base, inputs = scorer.base, scorer.encoder.encode(pairs)
    rows, labels = [], []
    hints = _hints(scorer, inputs)
    for pair, hint in zip(inputs, hints, strict=True):
        ids = torch.tensor(pair.before + pair.after, device=base.device)
        vectors, before = base.embeddings(ids), len(pair.before)
        rows.append(torch.cat([vectors[:before], hint.to(vectors.dtype), vectors[before:]]))
        label = torch.full((len(rows[-1]),), IGNORED, device=base.device)
        label[-pair.scored :] = ids[-pair.scored :]
        labels.append(label)
    width = max(map(len, rows))
    vectors = torch.stack([F.pad(row, (0, 0, width - len(row), 0)) for row in rows])
    label = torch.stack([F.pad(label, (width - len(label), 0), value=IGNORED) for label in labels])
    lengths = torch.tensor([len(row) for row in rows], device=base.device)
    visible = torch.arange(width, device=base.device) >= width - lengths[:, None]
    output = scorer.model(inputs_embeds=vectors, attention_mask=visible.long(), use_cache=False)
    logits = output.logits.float()
    losses = F.cross_entropy(
        logits[:, :-1].flatten(0, 1), label[:, 1:].flatten(), reduction="none", ignore_index=IGNORED
    ).view(len(rows), -1)
    return losses.sum(dim=1) / (label[:, 1:] != IGNORED).sum(dim=1)


def _hints(scorer: QueryLikelihood, inputs: Sequence[PairInput]) -> list[Tensor]:
    """The hint vectors of each row [H, D], made one row after the other."""
    block = scorer.hints
    if block is None:
        return [
            torch.empty(0, scorer.base.embeddings.embedding_dim, device=scorer.base.device) for _ in inputs
        ]
    rows = []
    for pair in inputs:
        query = torch.tensor(pair.query, device=scorer.base.device)
        passage = torch.tensor(pair.passage, device=scorer.base.device)
        candidate = torch.tensor(list(pair.candidate), dtype=torch.bool, device=scorer.base.device)
        if scorer.config.method == "qpeft-r":
            picked = _nearest(block, query, passage, candidate)
            vectors = block.table(torch.tensor(picked, dtype=torch.long, device=query.device))
        else:
            vectors = _attended(block, query, passage, candidate)
        rows.append(block.mlp(torch.cat([block.table(block.head), vectors, block.table(block.tail)])))
    return rows


def _nearest(block: HintBlock, query: Tensor, passage: Tensor, candidate: Tensor) -> list[int]:
    """Q-PEFT-R: the k passage ids nearest to a query token, each once."""
    config = block.config
    with torch.no_grad():
        scores = similarity(block.table(query)[None], block.base_vectors(passage)[None], config.similarity)[0]
        if config.similarity == "cosine":
            scores = without_rounding_noise(scores)
        order = scores.amax(dim=0).argsort(descending=True, stable=True).tolist()
    ids, allowed = passage.tolist(), candidate.tolist()
    picked = dict.fromkeys(ids[place] for place in order if allowed[place])
    return list(picked)[: config.k]


def _attended(block: HintBlock, query: Tensor, passage: Tensor, candidate: Tensor) -> Tensor:
    """Q-PEFT-A: one mixture of the passage's vectors for each query token."""
    if not candidate.any():
        return block.table(query)[:0]
    vectors = block.base_vectors(passage)[None]
    mixed, _ = block.attention(
        block.table(query)[None], vectors, vectors, key_padding_mask=~candidate[None], need_weights=True
    )
    return mixed[0]
