"""Which tokens become hints: the hard selections of Q-PEFT-R, of the two ablations (paper, section 3.2) and
of the random control.

Nothing here is differentiable, nothing is left to chance: equal scores go to the earlier position (or the
smaller id), a draw is a function of its pair, and where fewer than k tokens are left there are fewer hints.
All functions work on whole batches without a loop over rows.

Shapes: B pairs, Q query tokens, P passage tokens, V vocabulary, D embedding size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_COSINE_STEPS = 2.0**16  # far finer than cosines differ, far coarser than fp32 rounds
_DRAW = 0x9E3779B9  # which of the possible draws: any number does, but another one is another control
_BITS = 0xFFFFFFFF


def similarity(query: Tensor, candidates: Tensor, kind: str) -> Tensor:
    """Dot product or cosine of every query vector [B, Q, D] with every candidate [B, P, D] or [V, D] -> [B,
    Q, P or V].
    """
    query, candidates = query.float(), candidates.float()
    if kind == "cosine":
        query, candidates = F.normalize(query, dim=-1), F.normalize(candidates, dim=-1)
    with torch.autocast(query.device.type, enabled=False):  # mixed precision would pick other hints
        return query @ candidates.transpose(-1, -2)


def without_rounding_noise(cosines: Tensor) -> Tensor:
    """Cosines to 5 digits: all query tokens that a passage repeats have cosine 1, and must tie in fp32 too.
    [...] -> [...]
    """
    return (cosines * _COSINE_STEPS).round() / _COSINE_STEPS


def nearest_passage_tokens(
    scores: Tensor, query_mask: Tensor, passage_ids: Tensor, candidate: Tensor, k: int, distinct: bool
) -> tuple[Tensor, Tensor]:
    """The k passage tokens nearest to any query token, best first.

    Args:
        scores: similarities [B, Q, P].
        query_mask: [B, Q], False at padding.
        passage_ids: token ids [B, P].
        candidate: [B, P], False where a token may not be picked (padding, filters).
        k: number of picks.
        distinct: keep only the best place of each id (filter "duplicates").

    Returns:
        ids [B, k] and their mask [B, k] (False: no token was left for this place).
    """
    best = scores.masked_fill(~query_mask[:, :, None], -torch.inf).amax(dim=1)
    return _best_places(best, passage_ids, candidate & query_mask.any(dim=1, keepdim=True), k, distinct)


def random_passage_tokens(
    query_ids: Tensor, query_mask: Tensor, passage_ids: Tensor, candidate: Tensor, k: int, distinct: bool
) -> tuple[Tensor, Tensor]:
    """The control ``random``: as many passage tokens as `nearest_passage_tokens` picks, but drawn by lot.

    The lot of a place is a hash of the query's ids, the candidates' ids and the place, in whole numbers: the
    same in every batch, on every device, in training and ever after.

    Args:
        query_ids, query_mask: [B, Q].
        passage_ids, candidate, k, distinct: as there (a token that is there twice has two lots).

    Returns:
        ids and mask [B, k], in the order of the lots.
    """
    pair = _scrambled(_fingerprint(query_ids, query_mask) ^ _DRAW) + _fingerprint(passage_ids, candidate)
    places = torch.arange(passage_ids.shape[1], device=passage_ids.device)
    lots = _scrambled(pair[:, None] + _scrambled(places))
    return _best_places(lots, passage_ids, candidate & query_mask.any(dim=1, keepdim=True), k, distinct)


def nearest_vocabulary(
    scores: Tensor, query_ids: Tensor, query_mask: Tensor, k: int, without_query: bool
) -> tuple[Tensor, Tensor]:
    """Ablation ``vocab``: the k ids of the vocabulary nearest to any query token.

    Args:
        scores: similarities [B, Q, V], -inf where an id is not allowed.
        query_ids, query_mask: [B, Q].
        without_query: leave out the query's own ids (each would be its own nearest).

    Returns:
        ids and mask [B, k].
    """
    best = scores.masked_fill(~query_mask[:, :, None], -torch.inf).amax(dim=1)  # [B, V]
    if without_query:
        best = best.scatter(1, torch.where(query_mask, query_ids, query_ids[:, :1]), -torch.inf)
    ids = _largest(best, k)
    return _padded(ids, best.gather(1, ids) > -torch.inf, k)


def nearest_per_token(scores: Tensor, query_ids: Tensor, query_mask: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Ablation ``token``: the k nearest ids of each query token but itself; all first ones, then all second.

    Args:
        scores: similarities [B, Q, V], -inf where an id is not allowed; query_ids, query_mask: [B, Q].

    Returns:
        ids and mask [B, k * Q].
    """
    others = scores.scatter(2, query_ids[:, :, None], -torch.inf)
    ids = _largest(others, k)
    valid = (others.gather(2, ids) > -torch.inf).transpose(1, 2).flatten(1)
    return ids.transpose(1, 2).flatten(1), valid & query_mask.repeat(1, k)


def _scrambled(numbers: Tensor) -> Tensor:
    """A 32-bit hash of each whole number from 0, its lower 32 bits counting (the finalizer of splitmix32).

    Both factors are below 2 ** 31, so that no product overflows int64, whatever a device would make of that.
    """
    x = numbers & _BITS
    x = ((x ^ x >> 16) * 0x21F0AAAD) & _BITS
    x = ((x ^ x >> 15) * 0x735A2D97) & _BITS
    return x ^ x >> 15


def _fingerprint(ids: Tensor, mask: Tensor) -> Tensor:
    """One number for the ids of each row and their places, those of padding left out: [B, P] -> [B]."""
    places = torch.arange(ids.shape[1], device=ids.device)
    return (_scrambled(_scrambled(ids) + places) * mask).sum(dim=1)


def _best_places(
    scores: Tensor, passage_ids: Tensor, valid: Tensor, k: int, distinct: bool
) -> tuple[Tensor, Tensor]:
    """The ids at the k valid places with the largest scores, all [B, P] -> ids and mask [B, k]."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    ids, valid = passage_ids.gather(1, order), valid.gather(1, order)
    if distinct:
        valid = valid & _first_of_its_kind(torch.where(valid, ids, -1))
    return _first_k(ids, valid, k)


def _largest(scores: Tensor, k: int) -> Tensor:
    """Places of the k largest scores of the last dimension; `topk` leaves the order of equals to chance."""
    return scores.argsort(dim=-1, descending=True, stable=True)[..., :k]


def _first_of_its_kind(ids: Tensor) -> Tensor:
    """True at the first place of each id in a row: [B, P] -> [B, P]."""
    ordered, place = ids.sort(dim=1, stable=True)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return torch.empty_like(first).scatter(1, place, first)


def _first_k(ids: Tensor, valid: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The first k valid ids of each row, in order."""
    front = (~valid).to(torch.uint8).argsort(dim=1, stable=True)[:, :k]
    return _padded(ids.gather(1, front), valid.gather(1, front), k)


def _padded(ids: Tensor, valid: Tensor, k: int) -> tuple[Tensor, Tensor]:
    missing = k - ids.shape[1]
    return (F.pad(ids, (0, missing)), F.pad(valid, (0, missing))) if missing > 0 else (ids, valid)
