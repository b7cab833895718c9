"""Hint vectors: picked or attended tokens, embedded with a table of their own, through an MLP."""

from __future__ import annotations

import pytest
import torch
from tiny_models import HIDDEN, TEXTS, tiny_base, tiny_scorer
from torch import nn

from qpeft_rerank.errors import InputError
from qpeft_rerank.models.batch import collate
from qpeft_rerank.models.config import HINT_METHODS, AdapterConfig
from qpeft_rerank.models.explain import explain
from qpeft_rerank.models.hints import HintTable, mlp
from qpeft_rerank.models.likelihood import QueryLikelihood
from qpeft_rerank.passages import Passage

PAIRS = [
    ("how far do the bees fly", Passage("bees", "", TEXTS[0])),
    ("which lamp", Passage("lamp", "", TEXTS[1])),
    ("salt", Passage("short", "", "far road")),
    ("salt", Passage("none", "", "1846 ?!")),
    ("", Passage("lamp", "", TEXTS[1])),
]


def hint_texts(scorer: QueryLikelihood, pairs: list[tuple[str, Passage]] = PAIRS) -> list[list[str]]:
    """The visible hint tokens of each pair, head and newline included."""
    hints = scorer.hints(collate(scorer.encoder.encode(pairs)).pairs)
    decode = scorer.base.tokenizer.decode
    return [
        [decode([i]) for i in ids[mask].tolist()] for ids, mask in zip(hints.ids, hints.mask, strict=True)
    ]


def byte_pieces(text: str) -> list[str]:
    tokenizer = tiny_base().tokenizer
    return [tokenizer.decode([i]) for i in tokenizer(text, add_special_tokens=False)["input_ids"]]


def test_an_mlp_of_n_layers_is_a_linear_then_n_times_relu_and_linear() -> None:
    assert isinstance(mlp(4, 0), nn.Identity)
    assert [type(layer) for layer in mlp(4, 2)] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]


def test_the_hint_block_is_its_prefix_the_picks_and_a_newline() -> None:
    scorer = tiny_scorer(tiny_base(), "qpeft-r", k=5)
    bees, lamp, short, none, no_query = map("".join, hint_texts(scorer))
    for text in (bees, lamp, short, none, no_query):
        assert text.startswith("hints: ") and text.endswith("\n")
    assert none == no_query == "hints: \n", "no token is left to pick, or no query token to pick by"
    assert len(hint_texts(scorer)[0]) - len(hint_texts(scorer)[3]) == 5
    assert sorted(hint_texts(scorer)[2]) == sorted([*byte_pieces("hints: "), *byte_pieces("far road"), "\n"])


def test_no_pick_is_a_stopword_a_query_token_or_without_letters() -> None:
    scorer = tiny_scorer(tiny_base(), "qpeft-r", k=100)
    for (query, _), texts in zip(PAIRS[:2], hint_texts(scorer), strict=False):
        picks = texts[len(scorer.encoder.hint_head) : -1]
        assert not {" the", " of", " and", ",", ".", "1"} & set(picks)
        assert not set(byte_pieces(query)) & set(picks)
        assert 5 < len(picks) == len(set(picks)), "each once"


def test_with_all_filters_off_the_query_is_its_own_hint_in_the_order_of_the_passage() -> None:
    scorer = QueryLikelihood(tiny_base(), AdapterConfig(method="qpeft-r", k=5, filters=()))
    query = " are of and the of"
    texts = hint_texts(scorer, [(query, Passage("d", "", "salt of the earth, and roads are of sand"))])[0]
    assert texts[len(scorer.encoder.hint_head) : -1] == [" of", " the", " and", " are", " of"]


def test_retrieval_looks_at_the_trained_table_for_the_query_and_at_the_frozen_one_for_the_passage() -> None:
    scorer = QueryLikelihood(tiny_base(), AdapterConfig(method="qpeft-r", k=1))
    query, passage = "x", Passage("d", "", "abcdef")
    for target in "adf":
        with torch.no_grad():
            scorer.hints.table.embedding[scorer.encoder._ids(query)] = scorer.base.embeddings.weight[
                scorer.encoder._ids(target)
            ]
        assert hint_texts(scorer, [(query, passage)])[0][-2] == target


@pytest.mark.parametrize("method", ["vocab", "token"])
def test_the_ablations_pick_from_the_whole_vocabulary(method: str) -> None:
    scorer = tiny_scorer(tiny_base(), method, k=3)
    bees = hint_texts(scorer)[0]
    frame = len(scorer.encoder.hint_head) + 1
    queries = len(scorer.encoder.encode(PAIRS)[0].query)
    assert len(bees) - frame == (3 if method == "vocab" else 3 * queries)
    if method == "vocab":
        for text in bees[len(scorer.encoder.hint_head) : -1]:
            assert any(c.isalpha() for c in text) and text not in ("<s>", "</s>")
    assert len(hint_texts(scorer)[4]) == frame, "an empty query has no neighbours"


def test_the_control_draws_as_many_tokens_of_the_passage_as_the_nearest_are() -> None:
    control, nearest = (tiny_scorer(tiny_base(), method, k=5) for method in ("random", "qpeft-r"))
    assert {n: p.shape for n, p in control.trained_parameters().items()} == {
        n: p.shape for n, p in nearest.trained_parameters().items()
    }
    frame = len(control.encoder.hint_head)
    for (query, passage), drawn, near in zip(PAIRS, hint_texts(control), hint_texts(nearest), strict=True):
        assert len(drawn) == len(near) and drawn[:frame] == near[:frame] and drawn[-1] == "\n"
        assert set(drawn[frame:-1]) <= set(byte_pieces(passage.text)) - set(byte_pieces(query))
        assert len(set(drawn[frame:-1])) == len(drawn) - frame - 1, "each once"
    for place in (0, 1):
        assert set(hint_texts(control)[place]) != set(hint_texts(nearest)[place])
    picks = hint_texts(control)[0][frame:-1]
    assert explain(control, *PAIRS[0]).hints == [text.strip() for text in picks]
    again = tiny_scorer(tiny_base(seed=7), "random", seed=8, k=5)
    assert hint_texts(again) == hint_texts(control), "no weight has a say"


def test_attention_is_that_of_torch_for_each_pair_alone() -> None:
    scorer = tiny_scorer(tiny_base(), "qpeft-a", heads=4, hint_layers=0)
    batch = collate(scorer.encoder.encode(PAIRS[:3]))
    hints = scorer.hints(batch.pairs)
    alone = nn.MultiheadAttention(HIDDEN, 4, batch_first=True)
    alone.load_state_dict(scorer.hints.attention.state_dict())
    head = len(scorer.encoder.hint_head)
    for row, one in enumerate(scorer.encoder.encode(PAIRS[:3])):
        keys = [i for i, allowed in zip(one.passage, one.candidate, strict=True) if allowed]
        query = scorer.hints.table.embedding[one.query][None]
        passage = scorer.base.embeddings.weight[keys][None]
        expected, _ = alone(query, passage, passage)
        assert torch.allclose(hints.vectors[row, head : head + len(one.query)], expected[0], atol=1e-5)
        assert hints.mask[row].sum() == head + len(one.query) + 1


def test_attention_with_nothing_to_attend_to_gives_no_hints_and_no_nan() -> None:
    scorer = tiny_scorer(tiny_base(), "qpeft-a")
    scorer.train()
    batch = collate(scorer.encoder.encode(PAIRS[3:]))
    hints = scorer.hints(batch.pairs)
    assert hints.mask.sum(1).tolist() == [len(scorer.encoder.hint_head) + 1] * 2
    scores = scorer(batch)
    scores.sum().backward()
    assert scores.isfinite().all()
    assert all(p.grad.isfinite().all() for p in scorer.trained_parameters().values() if p.grad is not None)


def test_an_untrained_table_is_the_models_own_whatever_the_model_does_to_it() -> None:
    for architecture in ("llama", "gemma", "gemma3"):  # Gemma 3 scales what it looks up
        base = tiny_base(architecture)
        ids = torch.tensor([3, 50, 400])
        for trained in (True, False):
            assert torch.allclose(HintTable(base.embeddings, trained)(ids), base.embeddings(ids))


def test_a_frozen_table_is_neither_trained_nor_saved() -> None:
    scorer = tiny_scorer(tiny_base(), "qpeft-r", hint_table="frozen")
    assert set(scorer.trained_parameters()) == {
        f"hints.mlp.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")
    }
    batch = collate(scorer.encoder.encode(PAIRS))
    scorer(batch).sum().backward()
    assert scorer.base.embeddings.weight.grad is None


def test_soft_prompt_and_hints_train_together() -> None:
    scorer = tiny_scorer(tiny_base(), "qpeft-a", soft_prompt=True, prompt_layers=1)
    scorer(collate(scorer.encoder.encode(PAIRS))).sum().backward()
    for name in (
        "prompt.embedding",
        "prompt.mlp.0.weight",
        "hints.table.embedding",
        "hints.attention.in_proj_weight",
        "hints.mlp.2.bias",
    ):
        assert scorer.trained_parameters()[name].grad.abs().sum() > 0, name


def test_a_soft_prompt_starts_as_the_prompt() -> None:
    base = tiny_base("gemma3")
    hard, soft = (QueryLikelihood(base, AdapterConfig(method=m)) for m in ("hard-prompt", "soft-prompt"))
    batch = collate(hard.encoder.encode(PAIRS))
    assert torch.allclose(hard(batch), soft(batch), atol=1e-5)


def test_hints_are_the_same_twice() -> None:
    for method in HINT_METHODS:
        first, second = (tiny_scorer(tiny_base(), method, k=3) for _ in range(2))
        batch = collate(first.encoder.encode(PAIRS)).pairs
        assert torch.equal(first.hints(batch).vectors, second.hints(batch).vectors)


def test_heads_that_do_not_divide_the_embedding_size_are_an_error() -> None:
    with pytest.raises(InputError, match="heads: 5"):
        QueryLikelihood(tiny_base(), AdapterConfig(method="qpeft-a", heads=5))
