"""The trained parts of a reranker: soft prompt, hint table, attention, MLPs (paper, sections 3.2 and 3.3).

Shapes: B pairs, Q query tokens, P passage tokens, H hint vectors, D embedding size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from qpeft_rerank.errors import InputError
from qpeft_rerank.models.config import AdapterConfig
from qpeft_rerank.models.inputs import PairEncoder, vocabulary_candidates
from qpeft_rerank.models.selection import (
    nearest_passage_tokens,
    nearest_per_token,
    nearest_vocabulary,
    random_passage_tokens,
    similarity,
    without_rounding_noise,
)


class Pairs(NamedTuple):
    """What hints are made from, padded on the right: ids [B, Q] and [B, P], True where real (or allowed)."""

    query_ids: Tensor
    query_mask: Tensor
    passage_ids: Tensor
    candidate: Tensor


class Hints(NamedTuple):
    """Hint vectors [B, H, D], their mask [B, H], and the ids they stand for [B, H] (-1: a mixture of
    tokens).
    """

    vectors: Tensor
    mask: Tensor
    ids: Tensor


def mlp(size: int, layers: int) -> nn.Module:
    """Linear, then ``layers`` times ReLU and Linear, all size -> size; the identity for 0."""
    if layers == 0:
        return nn.Identity()
    return nn.Sequential(
        nn.Linear(size, size), *(m for _ in range(layers) for m in (nn.ReLU(), nn.Linear(size, size)))
    )


class SoftPrompt(nn.Module):
    """Trained vectors in the place of the prompt's tokens, which they start from. () -> [length, D]"""

    def __init__(self, start: Tensor, layers: int):
        super().__init__()
        self.embedding = nn.Parameter(start.detach().float().clone())
        self.mlp = mlp(start.shape[1], layers)

    def forward(self) -> Tensor:
        return self.mlp(self.embedding)


class HintTable(nn.Module):
    """Embeddings of hint tokens: a trained fp32 copy of the base model's table, or that table itself. ids ->
    vectors
    """

    def __init__(self, base: nn.Embedding, trained: bool):
        super().__init__()
        # In a tuple, so that the base model's table is no parameter of this module and is not saved with it.
        self._base = (base,)
        # Looked up rather than copied: some models (Gemma 3) scale what they look up.
        every = torch.arange(base.num_embeddings, device=base.weight.device)
        self.embedding = nn.Parameter(base(every).detach().float().clone()) if trained else None

    @property
    def weight(self) -> Tensor:
        """All embeddings [V, D]."""
        return self._base[0].weight if self.embedding is None else self.embedding

    def forward(self, ids: Tensor) -> Tensor:
        if self.embedding is None:
            return self._base[0](ids).float()
        return nn.functional.embedding(ids, self.embedding)


class HintBlock(nn.Module):
    """`hints: ` + hint vectors + newline, through an MLP. Subclasses make the vectors in between.

    Args:
        config: the adapter's settings.
        base: the base model's input embeddings, frozen.
        head, tail: ids of the fixed texts around the hints.
    """

    def __init__(self, config: AdapterConfig, base: nn.Embedding, head: list[int], tail: list[int]):
        super().__init__()
        self.config, self._base = config, (base,)
        self.table = HintTable(base, config.hint_table == "trained")
        self.mlp = mlp(self.table.weight.shape[1], config.hint_layers)
        self.register_buffer("head", torch.tensor(head, dtype=torch.long), persistent=False)
        self.register_buffer("tail", torch.tensor(tail, dtype=torch.long), persistent=False)

    def base_vectors(self, ids: Tensor) -> Tensor:
        """The frozen model's embeddings of ids, in fp32."""
        return self._base[0](ids).float()

    def make(self, pairs: Pairs) -> Hints:
        """Vectors between head and tail."""
        raise NotImplementedError

    def forward(self, pairs: Pairs) -> Hints:
        rows = pairs.query_ids.shape[0]
        hints = self.make(pairs)
        head, tail = (ids.expand(rows, -1) for ids in (self.head, self.tail))
        vectors = torch.cat([self.table(head), hints.vectors, self.table(tail)], dim=1)
        mask = torch.cat(
            [torch.ones_like(head, dtype=torch.bool), hints.mask, torch.ones_like(tail, dtype=torch.bool)],
            dim=1,
        )
        return Hints(self.mlp(vectors), mask, torch.cat([head, hints.ids, tail], dim=1))


class SelectedHints(HintBlock):
    """Q-PEFT-R, the ablations ``vocab`` and ``token``, the control ``random``: picked tokens, embedded with
    the hint table.
    """

    def make(self, pairs: Pairs) -> Hints:
        with torch.no_grad():
            ids, mask = self.pick(pairs)
        return Hints(self.table(ids), mask, ids)

    def __init__(
        self,
        config: AdapterConfig,
        base: nn.Embedding,
        head: list[int],
        tail: list[int],
        vocabulary: list[bool] | None = None,
    ):
        super().__init__(config, base, head, tail)
        allowed = None if vocabulary is None else torch.tensor(vocabulary)
        self.register_buffer("vocabulary", allowed, persistent=False)  # [V], ids that may be picked from it

    def pick(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Ids of the hints and their mask, [B, H] each (see `selection`)."""
        config, distinct = self.config, "duplicates" in self.config.filters
        if config.method == "random":
            return random_passage_tokens(*pairs, config.k, distinct)
        query = self.table(pairs.query_ids)
        candidates = self.base_vectors(pairs.passage_ids) if config.method == "qpeft-r" else self.table.weight
        scores = similarity(query, candidates, config.similarity)
        if config.similarity == "cosine":
            scores = without_rounding_noise(scores)
        if config.method == "qpeft-r":
            return nearest_passage_tokens(
                scores, pairs.query_mask, pairs.passage_ids, pairs.candidate, config.k, distinct
            )
        scores = scores.masked_fill(~self.vocabulary, -torch.inf)
        if config.method == "vocab":
            return nearest_vocabulary(
                scores, pairs.query_ids, pairs.query_mask, config.k, "query" in config.filters
            )
        return nearest_per_token(scores, pairs.query_ids, pairs.query_mask, config.k)


class AttendedHints(HintBlock):
    """Q-PEFT-A: one hint per query token, a mixture of the passage's embeddings found by multi-head
    attention.
    """

    def __init__(self, config: AdapterConfig, base: nn.Embedding, head: list[int], tail: list[int]):
        super().__init__(config, base, head, tail)
        size = base.weight.shape[1]
        if size % config.heads:
            raise InputError(f"heads: {config.heads} does not divide the model's embedding size {size}")
        self.attention = nn.MultiheadAttention(
            size, config.heads, dropout=config.attention_dropout, batch_first=True
        )

    def make(self, pairs: Pairs) -> Hints:
        vectors, _ = self._attend(pairs)
        mask = pairs.query_mask & pairs.candidate.any(dim=1, keepdim=True)
        return Hints(vectors, mask, torch.full_like(pairs.query_ids, -1))

    def most_attended(self, pairs: Pairs) -> Tensor:
        """For each query token the id of the passage token with the largest weight (mean over heads), [B,
        Q].
        """
        _, weights = self._attend(pairs)
        return pairs.passage_ids.gather(1, weights.mean(dim=1).argmax(dim=2))

    def _attend(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """`nn.MultiheadAttention` of its query over the passage: [B, Q, D] and its weights [B, heads, Q, P].

        The passage's vectors are never projected, which would cost most of the module: instead of the keys
        W x the queries are, by W's transpose; the values are after they were mixed. (A key's bias changes no
        weight.)
        """
        attention, passage = self.attention, self.base_vectors(pairs.passage_ids)
        heads, size = attention.num_heads, attention.embed_dim
        of_query, of_key, of_value = attention.in_proj_weight.view(3, heads, -1, size)
        bias = attention.in_proj_bias.view(3, heads, -1)
        query = torch.einsum("bqe,hde->bhqd", self.table(pairs.query_ids), of_query) + bias[0][:, None]
        query = torch.einsum("bhqd,hde->bhqe", query * of_query.shape[1] ** -0.5, of_key)
        # Attention over nothing would be NaN: a passage with no token to attend to shows a pad, and its hints
        # are masked.
        hidden = ~pairs.candidate
        hidden[:, 0] &= pairs.candidate.any(dim=1)
        scores = query.flatten(1, 2) @ passage.transpose(1, 2)
        weights = scores.masked_fill(hidden[:, None], -torch.inf).softmax(dim=-1)
        weights = nn.functional.dropout(weights, attention.dropout, self.training)
        mixed = (weights @ passage).unflatten(1, (heads, -1))
        weights = weights.unflatten(1, (heads, -1))
        values = torch.einsum("bhqe,hde->bhqd", mixed, of_value)
        values = values + bias[2][:, None] * weights.sum(dim=-1, keepdim=True)  # below 1 under dropout
        return attention.out_proj(values.transpose(1, 2).flatten(2)), weights


def make_hint_block(config: AdapterConfig, base: nn.Embedding, encoder: PairEncoder) -> HintBlock | None:
    """The hint module that the settings name; None for methods without hints."""
    if not config.has_hints:
        return None
    frame = (encoder.hint_head, encoder.hint_tail)
    if config.method == "qpeft-a":
        return AttendedHints(config, base, *frame)
    allowed = None
    if config.method in ("vocab", "token"):
        allowed = vocabulary_candidates(encoder.tokenizer, config.filters, base.weight.shape[0])
    return SelectedHints(config, base, *frame, vocabulary=allowed)
