"""`PairInput`s -> one padded `Batch` of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from qpeft_rerank.models.hints import Pairs
from qpeft_rerank.models.inputs import PairInput


@dataclass
class Prefixes:
    """Beginnings that pairs share, of one or more batches: each ``before``, or the ids with which all begin.
    S beginnings, L positions.

    Attributes:
        ids: [S, L], padded on the right; length: [S].
        place: the row of each ``before``; empty if there is one beginning for all.
        states: what the model keeps of them; whoever runs them first leaves it here for the other batches.
    """

    ids: Tensor
    length: Tensor
    place: dict[tuple[int, ...], int]
    states: Any = None

    @classmethod
    def of(cls, inputs: Sequence[PairInput], pad: int = 0) -> Prefixes:
        """The different ``before``s of these pairs."""
        place: dict[tuple[int, ...], int] = {}
        for pair in inputs:
            place.setdefault(tuple(pair.before), len(place))
        return cls(
            _pad([list(before) for before in place], pad),
            torch.tensor([len(before) for before in place]),
            place,
        )

    @classmethod
    def common(cls, ids: Sequence[int]) -> Prefixes:
        """One beginning, with which the ``before`` of every pair begins."""
        return cls(torch.tensor([list(ids)], dtype=torch.long), torch.tensor([len(ids)]), {})

    def of_pair(self, pair: PairInput) -> tuple[int, int]:
        """The row of a pair's beginning, and how many ids of its ``before`` that has."""
        if not self.place:
            return 0, self.ids.shape[1]
        return self.place[tuple(pair.before)], len(pair.before)

    def to(self, device: torch.device) -> Prefixes:
        """The same on another device."""
        return replace(
            self,
            ids=self.ids.to(device, non_blocking=True),
            length=self.length.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class Batch:
    """Pairs as tensors, padded on the right. B pairs, T positions without hints, N scored tokens in all.

    Attributes:
        ids: [B, T], ``before`` and ``after`` of each pair joined, without a shared prefix; length: [B].
        hint_start: [B], where the hints go.
        query_ids, query_mask: [B, Q] and passage_ids, candidate: [B, P], what the hints are made from.
        scored_row, scored_column: [N], pair and position (without hints) of each scored token.
        prefixes: the beginnings, if they are shared; prefix_of: [B], a pair's.
        positions: most positions that a pair takes, hints included and a shared prefix not.
    """

    ids: Tensor
    length: Tensor
    hint_start: Tensor
    query_ids: Tensor
    query_mask: Tensor
    passage_ids: Tensor
    candidate: Tensor
    scored_row: Tensor
    scored_column: Tensor
    prefixes: Prefixes | None
    prefix_of: Tensor | None
    positions: int

    @property
    def pairs(self) -> Pairs:
        """What the hints are made from."""
        return Pairs(self.query_ids, self.query_mask, self.passage_ids, self.candidate)

    def to(self, device: torch.device) -> Batch:
        """The same on another device, but for the prefixes; copies to a GPU do not wait."""
        tensors = {
            f.name: value.to(device, non_blocking=True)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **tensors)


def collate(inputs: Sequence[PairInput], pad: int = 0, prefixes: Prefixes | None = None) -> Batch:
    """Pad pairs to a `Batch`; with ``prefixes`` only what comes after them."""
    begun = [(0, 0) if prefixes is None else prefixes.of_pair(p) for p in inputs]
    rows = [p.before[covered:] + p.after for p, (_, covered) in zip(inputs, begun, strict=True)]
    queries = _pad([p.query for p in inputs], pad)
    scored = [
        (row, column)
        for row, p in enumerate(inputs)
        for column in range(len(rows[row]) - p.scored, len(rows[row]))
    ]
    scored_row, scored_column = torch.tensor(scored).T
    return Batch(
        ids=_pad(rows, pad),
        length=torch.tensor([len(row) for row in rows]),
        hint_start=torch.tensor([len(p.before) - c for p, (_, c) in zip(inputs, begun, strict=True)]),
        query_ids=queries,
        query_mask=torch.arange(queries.shape[1]) < torch.tensor([len(p.query) for p in inputs])[:, None],
        passage_ids=_pad([p.passage for p in inputs], pad),
        candidate=_pad([list(p.candidate) for p in inputs], 0).bool(),
        scored_row=scored_row,
        scored_column=scored_column,
        prefixes=prefixes,
        prefix_of=None if prefixes is None else torch.tensor([row for row, _ in begun]),
        positions=max(p.length - covered for p, (_, covered) in zip(inputs, begun, strict=True)),
    )


def _pad(rows: list[list[int]], value: int) -> Tensor:
    width = max(1, max(map(len, rows)))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows], dtype=torch.long)
