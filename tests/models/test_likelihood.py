"""A score is the mean log-likelihood of the query: for every architecture, alone or in any batch."""

from __future__ import annotations

from itertools import product
from os.path import commonprefix

import pytest
import torch
from tiny_models import ARCHITECTURES, TEXTS, byte_tokenizer, metaspace_tokenizer, tiny_base, tiny_scorer

from qpeft_rerank.models.base import BaseModel
from qpeft_rerank.models.batch import Prefixes, collate
from qpeft_rerank.models.config import LIKELIHOOD_METHODS, AdapterConfig
from qpeft_rerank.models.inputs import PairEncoder
from qpeft_rerank.models.likelihood import QueryLikelihood
from qpeft_rerank.models.row_head import RowHead
from qpeft_rerank.models.selection import similarity
from qpeft_rerank.passages import Passage
from qpeft_rerank.scoring import BatchLimits, Plan, score_inputs

PASSAGES = [
    Passage("long", "All of them", " ".join(TEXTS)),
    Passage("bees", "Bees", TEXTS[0]),
    Passage("short", "", "salt"),
    Passage("empty", "", ""),
]
LONG_QUERY = "which roads did the camels of the desert take when salt was traded"
PAIRS = [
    ("how far", PASSAGES[0]),
    (LONG_QUERY, PASSAGES[0]),
    ("how far", PASSAGES[1]),
    (LONG_QUERY, PASSAGES[2]),
    ("", PASSAGES[1]),
    ("how far", PASSAGES[3]),
]
PLACEMENTS = ("prefix", "suffix")
SAME = {"atol": 1e-4, "rtol": 0}
TOKENIZERS = {
    "bos-eos": byte_tokenizer(),
    "no-bos": byte_tokenizer(bos=None),
    "no-eos": byte_tokenizer(eos=None),
    "neither": byte_tokenizer(None, None),
    "pad": byte_tokenizer(pad="<pad>"),
    "metaspace": metaspace_tokenizer(),
}


def scores_in_every_batch(
    scorer: QueryLikelihood, pairs: list[tuple[str, Passage]]
) -> dict[str, torch.Tensor]:
    """Each pair's score: alone, with longer ones, in other orders, with the prompt or passages run once."""
    inputs = scorer.encoder.encode(pairs)
    with torch.inference_mode():
        found = {
            "alone": torch.cat([scorer(collate([one])) for one in inputs]),
            "in one batch": scorer(collate(inputs)),
            "backwards": scorer(collate(inputs[::-1])).flip(0),
            "padded with another id": scorer(collate(inputs, pad=7)),
            "sorted, small batches": torch.from_numpy(score_inputs(scorer, inputs, BatchLimits(200))),
            "pairs of two": torch.from_numpy(score_inputs(scorer, inputs, BatchLimits(10_000, pairs=2))),
        }
        if scorer.can_go_on and (prompt := commonprefix([one.before for one in inputs])):
            prefixes = Prefixes.common(prompt)
            parts = [collate(part, prefixes=prefixes) for part in (inputs[:2], inputs[2:])]
            found["prompt run once"] = torch.cat([scorer(part) for part in parts])
        if scorer.can_share:
            prefixes = Prefixes.of(inputs)
            parts = [collate(part, prefixes=prefixes) for part in (inputs[:2], inputs[2:])]
            found["passages run once"] = torch.cat([scorer(part) for part in parts])
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_score_does_not_depend_on_the_batch(architecture: str) -> None:
    base = tiny_base(architecture)
    for method, placement in product(LIKELIHOOD_METHODS, PLACEMENTS):
        scorer = tiny_scorer(base, method, placement=placement, k=3)
        alone, *others = (found := scores_in_every_batch(scorer, PAIRS)).items()
        assert alone[1].isfinite().all() and alone[1].std() > 0.05
        for how, scores in others:
            assert torch.allclose(scores, alone[1], **SAME), f"{method}, hints {placement}, {how}"
        if architecture != "mistral-window":  # its window is shorter than the trial
            shares = method in ("hard-prompt", "soft-prompt") or placement == "suffix"
            assert ("passages run once" in found) == shares
            assert "prompt run once" in found


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_a_score_does_not_depend_on_the_batch_with_any_tokenizer(tokenizer: str) -> None:
    base = tiny_base("llama", TOKENIZERS[tokenizer])
    pairs = [pair for pair in PAIRS if pair[0] or base.tokenizer.eos_token_id is not None]
    for method, placement, prompt in (
        ("qpeft-a", "prefix", ""),
        ("qpeft-r", "suffix", None),
        ("soft-prompt", "suffix", None),
    ):
        alone, *others = scores_in_every_batch(
            tiny_scorer(base, method, placement=placement, prompt=prompt), pairs
        ).items()
        assert alone[1].isfinite().all()
        for how, scores in others:
            assert torch.allclose(scores, alone[1], **SAME), f"{method}, {how}"


def test_the_query_shares_passages_right_up_to_the_end_of_the_context() -> None:
    for architecture, positions in (("gpt2", "n_positions"), ("opt", "max_position_embeddings")):
        scorer = tiny_scorer(tiny_base(architecture, **{positions: 128}), "qpeft-r", prompt="hints", k=2)
        found = scores_in_every_batch(
            scorer, PAIRS
        )  # one query leaves its passage far shorter than the other
        assert max(one.length for one in scorer.encoder.encode(PAIRS)) == 128
        assert torch.allclose(found["passages run once"], found["alone"], **SAME)


@pytest.mark.parametrize("architecture", ["gpt-neo", "llama4"])
def test_passages_beyond_a_window_are_not_shared_whatever_it_is_called(architecture: str) -> None:
    scorer = tiny_scorer(tiny_base(architecture), "hard-prompt")
    pairs = [(query, passage) for passage in PASSAGES for query in ("how far", "where is the old lighthouse")]
    inputs = scorer.encoder.encode(pairs)
    assert max(one.length for one in inputs) > 60, "the window"
    assert not Plan(scorer, inputs, BatchLimits(1000, cached=0.1)).share
    with torch.inference_mode():
        alone = torch.cat([scorer(collate([one])) for one in inputs])
    assert torch.allclose(torch.tensor(score_inputs(scorer, inputs, BatchLimits(1000))), alone, **SAME)


def test_a_model_that_misplaces_what_follows_pads_shares_nothing_also_in_bf16() -> None:
    base = tiny_base("mpt")  # counts distances with the pads between
    for dtype in (torch.float32, torch.bfloat16):
        model = BaseModel(base.model.to(dtype), base.tokenizer, "mpt")
        assert not tiny_scorer(model, "hard-prompt").can_share
    llama = tiny_base("llama")
    model = BaseModel(llama.model.to(torch.bfloat16), llama.tokenizer, "llama")
    assert tiny_scorer(model, "hard-prompt").can_share


@pytest.mark.parametrize("architecture", ["minimax", "bert"])
def test_a_model_with_a_cache_or_an_output_layer_of_its_own_kind_is_scored(architecture: str) -> None:
    scorer = tiny_scorer(tiny_base(architecture), "hard-prompt")
    found = score_inputs(scorer, inputs := scorer.encoder.encode(PAIRS), BatchLimits(1000))
    with torch.inference_mode():
        alone = torch.cat([scorer(collate([one])) for one in inputs])
    assert torch.allclose(torch.tensor(found), alone, **SAME)


def test_a_pair_beyond_the_sliding_window_does_not_share_its_passage() -> None:
    scorer = tiny_scorer(tiny_base("mistral", sliding_window=100), "hard-prompt")
    pairs = [(f"how far {i}", PASSAGES[0]) for i in range(4)]
    inputs = scorer.encoder.encode(pairs)
    assert min(one.length for one in inputs) > 100
    alone = torch.cat([scorer(collate([one])) for one in inputs])
    assert torch.allclose(torch.from_numpy(score_inputs(scorer, inputs, BatchLimits(10_000))), alone, **SAME)


@torch.inference_mode()
def test_a_sliding_window_is_counted_with_the_pads_of_a_batch() -> None:
    long, short = Passage("1", "", "salt " * 30), Passage("2", "", "salt")
    pairs = [(query, long) for query in "abcd"] + [
        (f"how far is the old lighthouse {i}", short) for i in "abcd"
    ]
    inputs = tiny_scorer(tiny_base("mistral"), "hard-prompt").encoder.encode(pairs)
    longest = max(one.length for one in inputs)  # each pair fits in such a window by itself
    shares = []
    for window in (None, 2 * longest, longest):
        scorer = tiny_scorer(tiny_base("mistral", sliding_window=window), "hard-prompt")
        shares.append(Plan(scorer, inputs, BatchLimits(10_000)).share)
        alone = torch.cat([scorer(collate([one])) for one in inputs])
        found = torch.from_numpy(score_inputs(scorer, inputs, BatchLimits(10_000)))
        assert torch.allclose(found, alone, **SAME)
    assert shares == [True, True, False]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.inference_mode()
def test_the_hard_prompt_score_is_what_the_bare_model_says_of_the_whole_text(architecture: str) -> None:
    base, bare = tiny_base(architecture), tiny_base(architecture).model
    scorer = QueryLikelihood(base, AdapterConfig(method="hard-prompt"))
    for pair, score in zip(PAIRS, scorer(collate(scorer.encoder.encode(PAIRS))), strict=True):
        ids, scored = whole_text(base, *pair)
        log_likelihoods = bare(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
        expected = (
            sum(log_likelihoods[place - 1, ids[place]] for place in range(len(ids) - scored, len(ids)))
            / scored
        )
        assert abs(score - expected) < 1e-4


def whole_text(base: BaseModel, query: str, passage: Passage) -> tuple[list[int], int]:
    """The ids of the documented layout, made by hand, and how many of the last are scored."""

    def ids(text: str) -> list[int]:
        return base.tokenizer(text, add_special_tokens=False)["input_ids"]

    text = f"{passage.title} {passage.text}" if passage.title else passage.text
    asked = [*ids(query), base.tokenizer.eos_token_id]
    front = [
        base.tokenizer.bos_token_id,
        *ids("Please generate a question for the input passage."),
        *ids("\nPassage:\n"),
    ]
    return front + ids(text) + ids("\nQuestion:\n") + asked, len(asked)


def test_logits_are_made_only_for_the_rows_that_predict_a_query_token() -> None:
    scorer = tiny_scorer(tiny_base("gemma2"), "qpeft-r")
    shapes: list[tuple[int, ...]] = []
    scorer.model.register_forward_hook(
        lambda module, inputs, output: shapes.append(tuple(output.logits.shape))
    )
    inputs = scorer.encoder.encode(PAIRS)
    scorer(collate(inputs))
    vocabulary = scorer.base.embeddings.weight.shape[0]
    assert shapes == [(1, sum(one.scored for one in inputs), vocabulary)]
    shapes.clear()
    scorer(collate(inputs, prefixes=Prefixes.of(inputs)))
    assert shapes == [(1, 1, vocabulary), (1, sum(one.scored for one in inputs), vocabulary)]


def test_logits_are_made_in_fp32_from_a_bf16_model() -> None:
    base = tiny_base("llama")
    scorer = tiny_scorer(BaseModel(base.model.to(torch.bfloat16), base.tokenizer, "bf16"), "qpeft-a")
    scores = scorer(collate(scorer.encoder.encode(PAIRS)))
    assert scores.dtype == torch.float32 and scores.isfinite().all()
    assert len(scores.unique()) == len(PAIRS), "bf16 sums would tie"


def test_a_training_step_keeps_no_fp32_copy_of_the_output_layer() -> None:
    base = tiny_base("llama")
    scorer = tiny_scorer(BaseModel(base.model.to(torch.bfloat16), base.tokenizer, "bf16"), "soft-prompt")
    head, kept, gradients = RowHead.on(scorer.model), [], []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append((tuple(tensor.shape), tensor.dtype))
        return tensor

    hidden = torch.randn(1, 4, head.weight.shape[1], generator=torch.Generator().manual_seed(0))
    head.rows = torch.tensor([2, 0])
    for frozen in (True, False):
        head.weight.requires_grad_(not frozen)
        given = hidden.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logits = head(given)
        logits.log_softmax(dim=-1)[..., 3].sum().backward()
        gradients.append(given.grad)
        copies = [shape for shape, dtype in kept if dtype == torch.float32 and head.weight.shape[0] in shape]
        assert bool(copies) != frozen, "where the layer is trained, its copy has the gradient"
    assert gradients[0].count_nonzero() and torch.allclose(*gradients)


def test_mixed_precision_rounds_neither_logits_nor_similarities() -> None:
    base = tiny_base("llama")
    scorer = tiny_scorer(base, "qpeft-r")
    logits: list[torch.Tensor] = []
    handle = RowHead.on(base.model).register_forward_hook(lambda head, given, made: logits.append(made))
    draw = torch.Generator().manual_seed(0)
    query, passage = torch.randn(1, 3, 16, generator=draw), torch.randn(1, 5, 16, generator=draw)
    plain = similarity(query, passage, "cosine")
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        scorer(collate(scorer.encoder.encode(PAIRS)))
        assert torch.equal(similarity(query, passage, "cosine"), plain)
    handle.remove()
    assert logits[0].dtype == torch.float32


def test_the_model_gives_all_its_logits_to_everybody_else() -> None:
    base, bare = tiny_base("llama-tied"), tiny_base("llama-tied").model
    scorer = tiny_scorer(base, "hard-prompt")
    scorer(collate(scorer.encoder.encode(PAIRS)))
    assert RowHead.on(base.model) is RowHead.on(base.model)
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(base.model(input_ids=ids).logits, bare(input_ids=ids).logits)


def test_two_scorers_can_stand_on_one_base_model() -> None:
    base = tiny_base("llama")
    first = tiny_scorer(base, "hard-prompt")
    batch = collate(first.encoder.encode(PAIRS))
    before = first(batch)
    second = tiny_scorer(base, "qpeft-r")
    assert not torch.equal(second(collate(second.encoder.encode(PAIRS))), before)
    assert torch.equal(first(batch), before)


@pytest.mark.parametrize("method", LIKELIHOOD_METHODS[1:])
def test_the_base_model_stays_as_it_is(method: str) -> None:
    base = tiny_base("gpt2")  # it has dropout
    before = {name: p.clone() for name, p in base.model.named_parameters()}
    scorer = tiny_scorer(base, method, k=2, soft_prompt=True, attention_dropout=0.0)
    scorer.train()
    assert not base.model.training and not any(module.training for module in base.model.modules())
    batch = collate(scorer.encoder.encode(PAIRS[:4]))
    assert torch.equal(scorer(batch), scorer(batch)), "no dropout in the frozen model"
    parameters = scorer.trained_parameters()
    optimizer = torch.optim.SGD(parameters.values(), lr=0.1)
    scorer(batch).sum().backward()
    optimizer.step()
    assert all(p.grad is None for p in base.model.parameters())
    assert all(p.grad is not None for p in parameters.values())
    for name, parameter in before.items():
        assert torch.equal(
            dict(base.model.named_parameters())[name.replace("lm_head.", "lm_head.head.")], parameter
        )


def test_attention_dropout_works_in_training_and_only_there() -> None:
    scorer = tiny_scorer(tiny_base("llama"), "qpeft-a", attention_dropout=0.5)
    batch = collate(scorer.encoder.encode(PAIRS[:4]))
    assert torch.equal(scorer(batch), scorer(batch))
    scorer.train()
    assert not torch.equal(scorer(batch), scorer(batch))
    scorer.eval()
    assert torch.equal(scorer(batch), scorer(batch))


def test_gradients_are_the_same_with_passages_run_once() -> None:
    for method, settings in (
        ("soft-prompt", {"prompt_layers": 1}),
        ("qpeft-a", {"soft_prompt": True}),
        ("qpeft-r", {}),
    ):
        scorer = tiny_scorer(tiny_base("llama"), method, **settings)
        inputs = scorer.encoder.encode(PAIRS)
        gradients = []
        for share in (False, True):
            scorer.zero_grad()
            scorer(collate(inputs, prefixes=Prefixes.of(inputs) if share else None)).sum().backward()
            gradients.append({name: p.grad.clone() for name, p in scorer.trained_parameters().items()})
        for name, gradient in gradients[0].items():
            assert torch.allclose(
                gradients[1][name], gradient, atol=1e-4 * float(gradient.abs().max()) + 1e-6
            ), name


def test_whether_passages_can_be_run_once_is_found_without_a_trace(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "qpeft_rerank")
    scorer = tiny_scorer(
        tiny_base("gpt2", n_positions=24), "token", prompt="", k=8
    )  # the trial does not even fit
    scorer.train()
    assert scorer.can_share is False and scorer.training
    assert "nothing is run once for many pairs: pair 0 (78 tokens)" in caplog.text
    assert isinstance(scorer.encoder, PairEncoder)
