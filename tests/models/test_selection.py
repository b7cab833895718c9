"""Hints are the nearest tokens, by rules that one can follow with pencil and paper."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from qpeft_rerank.models.selection import (
    nearest_passage_tokens,
    nearest_per_token,
    nearest_vocabulary,
    random_passage_tokens,
    similarity,
    without_rounding_noise,
)

NO = -torch.inf
DRAWN = [131, 113, 136, 100, 141]


def passage_picks(
    scores: list[list[float]],
    ids: list[int],
    k: int,
    distinct: bool = True,
    candidate: list[bool] | None = None,
    query: list[bool] | None = None,
) -> list[int]:
    found, mask = nearest_passage_tokens(
        torch.tensor([scores]),
        torch.tensor([query or [True] * len(scores)]),
        torch.tensor([ids]),
        torch.tensor([candidate or [True] * len(ids)]),
        k,
        distinct,
    )
    assert found.shape == mask.shape == (1, k)
    return found[0][mask[0]].tolist()


def test_similarity_is_dot_product_or_cosine() -> None:
    query, candidates = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[6.0, 8.0], [4.0, -3.0], [0.0, 0.0]])
    assert similarity(query, candidates, "dot").tolist() == [[[50.0, 0.0, 0.0]]]
    assert torch.allclose(
        similarity(query, candidates, "cosine"), torch.tensor([[[1.0, 0.0, 0.0]]]), atol=1e-6
    )
    assert similarity(query.bfloat16(), candidates.bfloat16(), "dot").dtype == torch.float32


def test_the_nearest_to_any_query_token_come_first() -> None:
    assert passage_picks([[0.1, 0.9, 0.2, 0.3], [0.8, 0.0, 0.1, 0.2]], [10, 11, 12, 13], 3) == [11, 10, 13]


def test_equal_tokens_go_by_position() -> None:
    assert passage_picks([[0.5, 0.7, 0.5, 0.7, 0.5]], [10, 11, 12, 13, 14], 4) == [11, 13, 10, 12]
    assert passage_picks([[0.0] * 200], list(range(300, 500)), 200) == list(range(300, 500))


def test_a_repeated_token_counts_once_at_its_best_place_or_each_time() -> None:
    scores, ids = [[0.2, 0.6, 0.9, 0.5]], [10, 11, 10, 11]
    assert passage_picks(scores, ids, 4) == [10, 11]
    assert passage_picks(scores, ids, 4, distinct=False) == [10, 11, 11, 10]


def test_hidden_tokens_and_padded_query_tokens_have_no_say() -> None:
    assert passage_picks([[0.9, 0.1, 0.2]], [10, 11, 12], 2, candidate=[False, True, True]) == [12, 11]
    assert passage_picks([[0.1, 0.2], [0.9, 0.0]], [10, 11], 1, query=[True, False]) == [11]
    # A place that is hidden does not use up its token: the same id further on may be picked.
    assert passage_picks([[0.9, 0.1]], [10, 10], 1, candidate=[False, True]) == [10]


def test_fewer_tokens_than_k_give_fewer_hints() -> None:
    assert passage_picks([[0.1, 0.2]], [10, 11], 5) == [11, 10]
    assert passage_picks([[0.1, 0.2]], [10, 11], 5, candidate=[False, False]) == []
    assert passage_picks([[0.1, 0.2]], [10, 11], 5, query=[False]) == []


def test_the_nearest_of_the_vocabulary_with_ties_by_id() -> None:
    scores = torch.tensor([[[0.0, 0.5, NO, 0.9, 0.5], [0.0, 0.1, NO, 0.2, 0.6]]])
    query, both = torch.tensor([[3, 0]]), torch.tensor([[True, True]])
    assert picked(nearest_vocabulary(scores, query, both, 3, without_query=False)) == [3, 4, 1]
    assert picked(nearest_vocabulary(scores, query, both, 3, without_query=True)) == [4, 1]
    assert picked(
        nearest_vocabulary(scores, query, torch.tensor([[True, False]]), 9, without_query=True)
    ) == [1, 4, 0]
    assert (
        picked(nearest_vocabulary(scores, query, torch.tensor([[False, False]]), 3, without_query=False))
        == []
    )
    flat = torch.zeros(1, 1, 3000)
    assert picked(nearest_vocabulary(flat, query[:, :1], both[:, :1], 20, without_query=True)) == [
        0,
        1,
        2,
        *range(4, 21),
    ]


def test_each_query_token_has_its_own_neighbours() -> None:
    scores = torch.tensor([[[0.9, 0.5, 0.1, 0.5], [0.2, 0.9, 0.3, 0.3], [0.0, 0.0, 0.0, 0.0]]])
    query, mask = torch.tensor([[0, 1, 2]]), torch.tensor([[True, True, False]])
    ids, seen = nearest_per_token(scores, query, mask, 2)
    assert ids.tolist() == [[1, 2, 0, 3, 3, 1]], (
        "all first neighbours, then all second ones; never the token itself"
    )
    assert seen.tolist() == [[True, True, False] * 2]


def test_repeated_query_tokens_tie_at_cosine_one() -> None:
    torch.manual_seed(0)
    table = torch.randn(50, 300)
    ids = torch.randperm(50)[None]
    exact = without_rounding_noise(similarity(table[ids], table[ids], "cosine"))
    found, _ = nearest_passage_tokens(
        exact, torch.ones(1, 50, dtype=torch.bool), ids, torch.ones(1, 50, dtype=torch.bool), 50, True
    )
    assert torch.equal(found, ids), "fp32 gives 0.9999999 here and 1.0000001 there"


def test_a_batch_picks_as_its_rows_do_alone() -> None:
    torch.manual_seed(1)
    scores = (torch.rand(6, 4, 30) * 8).round() / 8  # many ties
    ids, query = torch.randint(0, 12, (6, 30)), torch.rand(6, 4) > 0.3
    candidate = torch.rand(6, 30) > 0.4
    for distinct in (True, False):
        together, mask = nearest_passage_tokens(scores, query, ids, candidate, 10, distinct)
        for row in range(6):
            one = nearest_passage_tokens(
                scores[row : row + 1],
                query[row : row + 1],
                ids[row : row + 1],
                candidate[row : row + 1],
                10,
                distinct,
            )
            assert (
                picked(one)
                == together[row][mask[row]].tolist()
                == by_hand(scores[row], query[row], ids[row], candidate[row], distinct)
            )


def by_hand(scores: Tensor, query: Tensor, ids: Tensor, candidate: Tensor, distinct: bool) -> list[int]:
    """The rule as a loop: best score first, earlier position first, each id once, ten at most."""
    places = [p for p in range(len(ids)) if candidate[p] and query.any()]
    places.sort(key=lambda p: -max(scores[q, p].item() for q in range(len(query)) if query[q]))
    ranked = [ids[p].item() for p in places]
    return (list(dict.fromkeys(ranked)) if distinct else ranked)[:10]


def test_a_draw_is_of_the_pair_alone() -> None:
    torch.manual_seed(2)
    query, passage = torch.randint(0, 50, (7, 5)), torch.randint(0, 50, (7, 40))
    asked, candidate = torch.rand(7, 5) > 0.3, torch.rand(7, 40) > 0.4
    asked[:, 0] = True
    for distinct in (True, False):
        together = random_passage_tokens(query, asked, passage, candidate, 6, distinct)
        order = torch.randperm(7)
        shuffled = random_passage_tokens(
            query[order], asked[order], passage[order], candidate[order], 6, distinct
        )
        assert all(torch.equal(a[order], b) for a, b in zip(together, shuffled, strict=True))
        for row in range(7):
            wider = [F.pad(t[row : row + 1], (0, 9), value=v) for t, v in ((query, 3), (passage, 4))]
            masks = [F.pad(t[row : row + 1], (0, 9)) for t in (asked, candidate)]
            alone = random_passage_tokens(wider[0], masks[0], wider[1], masks[1], 6, distinct)
            assert picked(alone) == together[0][row][together[1][row]].tolist(), "whatever it is padded with"


def test_a_draw_is_the_same_for_ever() -> None:
    query, passage = torch.tensor([[5, 6, 7]]), torch.arange(100, 160)[None]
    every = torch.ones(1, 60, dtype=torch.bool)
    found = random_passage_tokens(query, every[:, :3], passage, every, 5, True)
    assert picked(found) == DRAWN, "runs and adapters made before would have other scores"
    for changed in (query.flip(1), query + 1, query[:, :2]):
        other = random_passage_tokens(changed, every[:, : changed.shape[1]], passage, every, 5, True)
        assert picked(other) != DRAWN
    assert picked(random_passage_tokens(query, every[:, :3], passage + 1, every, 5, True)) != [
        token + 1 for token in DRAWN
    ]


def test_as_many_candidates_are_drawn_as_the_nearest_would_be() -> None:
    torch.manual_seed(3)
    passage, candidate = torch.randint(0, 12, (40, 30)), torch.rand(40, 30) > torch.rand(40, 1)
    query, asked = torch.randint(0, 12, (40, 4)), torch.rand(40, 4) > torch.rand(40, 1)
    for distinct in (True, False):
        drawn, mask = random_passage_tokens(query, asked, passage, candidate, 10, distinct)
        _, nearest = nearest_passage_tokens(torch.rand(40, 4, 30), asked, passage, candidate, 10, distinct)
        assert torch.equal(mask, nearest) and 0 < mask.sum() < 400
        for row in range(40):
            ids = drawn[row][mask[row]].tolist()
            assert set(ids) <= set(passage[row][candidate[row]].tolist())
            assert not distinct or len(set(ids)) == len(ids)


def test_every_place_is_drawn_alike() -> None:
    query, every = torch.arange(4000)[:, None], torch.ones(4000, 1, dtype=torch.bool)
    passage = torch.arange(20).expand(4000, -1)
    ids, _ = random_passage_tokens(query, every, passage, every.expand(-1, 20), 5, True)
    count = torch.bincount(ids.flatten(), minlength=20)
    # 1,000 times each; 5 standard deviations of a fair draw are 137
    assert (count - 1000).abs().max() < 137
    first = torch.bincount(ids[:, 0] * 20 + ids[:, 1], minlength=400).reshape(20, 20)
    assert (first.sum(1) - 200).abs().max() < 70 and first.diagonal().sum() == 0
    assert (first + torch.eye(20) * 10).min() > 0, "any token may follow any other"


def picked(found: tuple[Tensor, Tensor]) -> list[int]:
    return found[0][0][found[1][0]].tolist()
