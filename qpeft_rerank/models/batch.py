"""`PairInput`s -> one padded `Batch` of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from qpeft_rerank.models.hints import Pairs
from qpeft_rerank.models.inputs import PairInput


@dataclass(frozen=True)
class Batch:
    """Pairs as tensors, padded on the right. B pairs, T positions without hints, N scored tokens in all.

    Attributes:
        ids: [B, T], ``before`` and ``after`` of each pair joined (only ``after`` where prefixes are shared);
            length: [B].
        hint_start: [B], where the hints go.
        query_ids, query_mask: [B, Q] and passage_ids, candidate: [B, P], what the hints are made from.
        scored_row, scored_column: [N], pair and position (without hints) of each scored token.
        prefix_ids, prefix_length: [S, L] and [S], the different ``before``s, if they are shared; prefix_of:
            [B], a pair's.
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
    prefix_ids: Tensor | None
    prefix_length: Tensor | None
    prefix_of: Tensor | None
    positions: int

    @property
    def pairs(self) -> Pairs:
        """What the hints are made from."""
        return Pairs(self.query_ids, self.query_mask, self.passage_ids, self.candidate)

    def to(self, device: torch.device) -> Batch:
        """The same on another device; copies to a GPU do not wait."""
        tensors = {
            f.name: value.to(device, non_blocking=True)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **tensors)


def collate(inputs: Sequence[PairInput], pad: int = 0, share: bool = False) -> Batch:
    """Pad pairs to a `Batch`; with ``share``, each different ``before`` goes in once for all its pairs."""
    rows = [p.after if share else p.before + p.after for p in inputs]
    queries = _pad([p.query for p in inputs], pad)
    scored = [
        (row, column)
        for row, p in enumerate(inputs)
        for column in range(len(rows[row]) - p.scored, len(rows[row]))
    ]
    scored_row, scored_column = torch.tensor(scored).T
    prefixes: dict[tuple[int, ...], int] = {}
    prefix_of = [prefixes.setdefault(tuple(p.before), len(prefixes)) for p in inputs] if share else []
    return Batch(
        ids=_pad(rows, pad),
        length=torch.tensor([len(row) for row in rows]),
        hint_start=torch.tensor([0 if share else len(p.before) for p in inputs]),
        query_ids=queries,
        query_mask=torch.arange(queries.shape[1]) < torch.tensor([len(p.query) for p in inputs])[:, None],
        passage_ids=_pad([p.passage for p in inputs], pad),
        candidate=_pad([p.candidate for p in inputs], False).bool(),
        scored_row=scored_row,
        scored_column=scored_column,
        prefix_ids=_pad([list(prefix) for prefix in prefixes], pad) if share else None,
        prefix_length=torch.tensor([len(prefix) for prefix in prefixes]) if share else None,
        prefix_of=torch.tensor(prefix_of) if share else None,
        positions=max(p.length - (len(p.before) if share else 0) for p in inputs),
    )


def _pad(rows: list[list[int]], value: int) -> Tensor:
    width = max(1, max(map(len, rows)))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows], dtype=torch.long)
