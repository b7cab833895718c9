"""Pairs are scored in batches that fill the memory and no more; what has no score is an error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import TEXTS, tiny_base, tiny_scorer

from qpeft_rerank.errors import PairError
from qpeft_rerank.models.batch import Batch, collate
from qpeft_rerank.models.likelihood import QueryLikelihood
from qpeft_rerank.passages import Passage
from qpeft_rerank.scoring import BatchLimits, Plan, default_limits, out_of_memory, score_inputs

SAME = {"atol": 1e-4, "rtol": 0}
PASSAGES = [Passage(f"d{i}", "", text) for i, text in enumerate((*TEXTS, "salt", "x y z"))]
PAIRS = [
    (query, Passage(f"{p.docid}.{n}", "", f"{p.text} {n}"))  # no passage twice
    for p in PASSAGES
    for n, query in enumerate(("how far is it", "how far is the old lighthouse"))
]
CROWD = [(f"how far {i}", passage) for i in range(8) for passage in PASSAGES[:3]]  # many topics, few passages


@pytest.fixture(scope="module")
def scorer() -> QueryLikelihood:
    return tiny_scorer(tiny_base(), "qpeft-a")


def alone(scorer: QueryLikelihood, pairs: list[tuple[str, Passage]]) -> np.ndarray:
    with torch.inference_mode():
        return np.array(
            [scorer(collate([one])).item() for one in scorer.encoder.encode(pairs)], dtype=np.float32
        )


def score(scorer: QueryLikelihood, pairs: list[tuple[str, Passage]], limits: BatchLimits) -> np.ndarray:
    return score_inputs(scorer, scorer.encoder.encode(pairs), limits)


def batches(plan: Plan) -> list[list[int]]:
    return [batch for part in plan.all() for batch in part.pairs]


def test_scores_are_those_of_each_pair_alone_in_the_order_given(scorer: QueryLikelihood) -> None:
    for limits in (BatchLimits(1), BatchLimits(300), BatchLimits(100_000), BatchLimits(100_000, pairs=3)):
        scores = score(scorer, PAIRS, limits)
        assert scores.dtype == np.float32 and np.allclose(scores, alone(scorer, PAIRS), **SAME)


def test_batches_hold_pairs_of_like_length_longest_first_within_the_limits(scorer: QueryLikelihood) -> None:
    inputs = scorer.encoder.encode(PAIRS)
    plan = Plan(scorer, inputs, BatchLimits(400))
    assert not plan.share
    lengths = [inputs[i].length for i in plan.order]
    assert lengths == sorted(lengths, reverse=True) and sorted(plan.order) == list(range(len(PAIRS)))
    for batch in batches(plan):
        assert plan.cost(batch, None) == len(batch) * max(inputs[i].length for i in batch) <= 400
    assert all(len(batch) <= 2 for batch in batches(Plan(scorer, inputs, BatchLimits(400, pairs=2))))
    assert batches(Plan(scorer, inputs, BatchLimits(1))) == [[i] for i in plan.order], "one pair always goes"


def test_passages_that_many_topics_share_are_run_once(scorer: QueryLikelihood) -> None:
    inputs = scorer.encoder.encode(CROWD)
    plan = Plan(scorer, inputs, BatchLimits(150, cached=0.1))
    assert plan.share and len(plan.all()) > 1
    for pairs, prefixes in plan.all():
        for batch in pairs:
            assert plan.cost(batch, prefixes) <= 150
            ends = [inputs[i].length - len(inputs[i].before) for i in batch]
            assert ends == sorted(ends, reverse=True)
    seen: list[int] = []
    hook = scorer.model.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(kwargs["inputs_embeds"].shape[0]), with_kwargs=True
    )
    scores = score_inputs(scorer, inputs, BatchLimits(100_000, cached=0.1))
    hook.remove()
    assert seen == [3, 24], "three passages, then the ends of 24 pairs"
    assert np.allclose(scores, alone(scorer, CROWD), **SAME)


@pytest.mark.parametrize("placement", ["suffix", "prefix"])
def test_the_prompt_is_run_once_where_passages_are_not(placement: str) -> None:
    scorer = tiny_scorer(tiny_base(), "qpeft-r", placement=placement)
    inputs, encoder = scorer.encoder.encode(PAIRS), scorer.encoder
    with torch.inference_mode():
        prompt = Plan(scorer, inputs, limits := BatchLimits(300, cached=0.1)).common
    front = encoder.bos + encoder.prompt + (encoder.passage_heading if placement == "suffix" else [])
    assert prompt.ids.tolist() == [front]
    seen: list[torch.Size] = []
    hook = scorer.model.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(kwargs["inputs_embeds"].shape), with_kwargs=True
    )
    scores = score_inputs(scorer, inputs, limits)
    hook.remove()
    assert seen[0][:2] == (1, len(front)), "the prompt, once"
    assert sum(shape[0] for shape in seen[1:]) == len(PAIRS)
    assert seen[1][1] == max(one.length for one in inputs) - len(front)
    assert np.allclose(scores, alone(scorer, PAIRS), **SAME)


def test_where_memory_runs_out_each_pair_has_its_own_prompt_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scorer = tiny_scorer(tiny_base(), "qpeft-r")
    forward = scorer.forward

    def small_machine(batch: Batch) -> torch.Tensor:
        if batch.prefixes is not None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(batch)

    expected = alone(scorer, PAIRS)
    assert scorer.can_go_on
    monkeypatch.setattr(scorer, "forward", small_machine)
    assert np.allclose(score(scorer, PAIRS, BatchLimits(300, cached=0.1)), expected, **SAME)


def test_the_prompt_is_not_run_once_where_it_does_not_pay_or_may_be_trained(scorer: QueryLikelihood) -> None:
    inputs = scorer.encoder.encode(PAIRS)
    assert Plan(scorer, inputs, BatchLimits(300)).common is None, "with gradients"
    long = [(query, Passage(str(i), "", f"{i} {' '.join(TEXTS)}" * 9)) for i, (query, _) in enumerate(PAIRS)]
    with torch.inference_mode():
        assert Plan(scorer, inputs, BatchLimits(300, cached=0.1)).common is not None
        assert Plan(scorer, inputs, BatchLimits(300, cached=0.9)).common is None, "memory is scarce"
        assert Plan(scorer, inputs[:1], BatchLimits(300, cached=0.1)).common is None
        assert Plan(scorer, scorer.encoder.encode(long), BatchLimits(300, cached=0.1)).common is None


def test_passages_are_not_shared_where_it_does_not_pay_or_cannot_be(scorer: QueryLikelihood) -> None:
    prefix = tiny_scorer(tiny_base(), "qpeft-a", placement="prefix")
    assert not Plan(prefix, prefix.encoder.encode(CROWD), BatchLimits(2000)).share
    different = [(query, Passage(str(i), "", f"passage {i}")) for i, (query, _) in enumerate(CROWD)]
    assert not Plan(scorer, scorer.encoder.encode(different), BatchLimits(2000)).share


@pytest.mark.parametrize(("pairs", "memory"), [(PAIRS, 150), (CROWD, 60)], ids=["plain", "shared"])
def test_out_of_memory_halves_the_batch_and_goes_on(
    pairs: list[tuple[str, Passage]], memory: int, scorer: QueryLikelihood, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, sizes = scorer.forward, []

    def small_machine(batch: Batch) -> torch.Tensor:
        sizes.append(batch.ids.numel())
        if batch.ids.numel() > memory:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(batch)

    monkeypatch.setattr(scorer, "forward", small_machine)
    done: list[int] = []
    limits = BatchLimits(100_000)
    scores = score_inputs(scorer, scorer.encoder.encode(pairs), limits, done.append)
    monkeypatch.undo()
    assert np.allclose(scores, alone(scorer, pairs), **SAME)
    assert sum(done) == len(pairs), "each pair is reported once"
    assert sum(size > memory for size in sizes) >= 2 and limits.tokens < 100_000, (
        "the next window begins with what fits"
    )


def test_memory_that_takes_one_passage_at_a_time_is_found(
    scorer: QueryLikelihood, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, calls = scorer.forward, []

    def small_machine(batch: Batch) -> torch.Tensor:
        calls.append(batch)
        assert len(calls) < 100, "it tries the same again and again"
        if len(batch.ids) > 1 or len(batch.prefixes.place) > 1:
            raise MemoryError
        return forward(batch)

    monkeypatch.setattr(scorer, "forward", small_machine)
    # Much for keys and values: one pair costs more than two passages do.
    scores = score(scorer, CROWD, BatchLimits(100_000, cached=4.0))
    monkeypatch.undo()
    assert np.allclose(scores, alone(scorer, CROWD), **SAME)


def test_keys_and_values_that_stay_leave_room_for_the_pairs(scorer: QueryLikelihood) -> None:
    inputs = scorer.encoder.encode([(f"how far {i}", passage) for i in range(8) for passage in PASSAGES])
    for cached in (0.1, 1.0, 4.0):
        plan = Plan(scorer, inputs, BatchLimits(1000, cached=cached))
        for _, prefixes in plan.all():
            assert prefixes.ids.numel() * max(1, 2 * cached) <= 1000 or len(prefixes.place) == 1


def test_after_memory_ran_out_on_long_pairs_short_ones_still_fill_a_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scorer = tiny_scorer(tiny_base(), "hard-prompt", prompt="")
    pairs = [("far", Passage(str(i), "", f"{TEXTS[0]} {i}")) for i in range(8)] + [
        ("far", Passage(str(i), "", str(i))) for i in range(40)
    ]
    forward, sizes = scorer.forward, []

    def small_machine(batch: Batch) -> torch.Tensor:
        if batch.ids.numel() > 400:
            raise MemoryError
        sizes.append(len(batch.ids))
        return forward(batch)

    monkeypatch.setattr(scorer, "forward", small_machine)
    score(scorer, pairs, BatchLimits(1000))
    assert max(sizes) >= 3 * sizes[0]


def test_a_pair_too_large_for_the_memory_is_an_error_with_its_length(
    scorer: QueryLikelihood, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_machine(batch: Batch) -> torch.Tensor:
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried ..."
        )

    monkeypatch.setattr(scorer, "forward", no_machine)
    inputs = scorer.encoder.encode(PAIRS)
    with pytest.raises(PairError, match="out of memory") as error:
        score_inputs(scorer, inputs, BatchLimits(1000))
    longest = max(range(len(inputs)), key=lambda i: inputs[i].length)
    assert error.value.index == longest and error.value.tokens == inputs[longest].length


def test_other_errors_pass_through(scorer: QueryLikelihood, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(batch: Batch) -> torch.Tensor:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(scorer, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        score(scorer, PAIRS, BatchLimits(1000))
    assert not out_of_memory(RuntimeError("shapes do not match"))
    assert not out_of_memory(ValueError("out of memory"))
    for words in (
        "MPS backend out of memory",
        "CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ):
        assert out_of_memory(RuntimeError(f"{words} ..."))


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_score_that_is_no_number_is_an_error_that_names_the_pair(
    value: float, scorer: QueryLikelihood, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, forward = scorer.encoder.encode(PAIRS), scorer.forward
    victim = 5

    def sometimes(batch: Batch) -> torch.Tensor:
        scores = forward(batch)
        length = (
            batch.length if batch.prefixes is None else batch.length + batch.prefixes.length[batch.prefix_of]
        )
        return torch.where(length == len(inputs[victim].before + inputs[victim].after), value, scores)

    monkeypatch.setattr(scorer, "forward", sometimes)
    with pytest.raises(PairError, match="no finite score") as error:
        score_inputs(scorer, inputs, BatchLimits(1))
    named = inputs[error.value.index]
    assert named.length == error.value.tokens
    assert len(named.before + named.after) == len(inputs[victim].before + inputs[victim].after)


def test_limits_are_what_one_asks_for_or_fit_the_device() -> None:
    for architecture in ("llama", "gpt2", "opt", "gemma3", "phi", "gpt-neox"):
        scorer = tiny_scorer(tiny_base(architecture), "hard-prompt")
        limits = default_limits(scorer.base)
        assert limits.tokens >= 1024 and limits.pairs is None and 0 < limits.cached < 1
        assert default_limits(scorer.base, 77, 3) == BatchLimits(77, 3, limits.cached)
