"""A LoRA starts from the base model's scores, is all that is trained, and its own folder is plain peft."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_models import ARCHITECTURES, TEXTS, save_base, tiny_base, tiny_scorer
from transformers import AutoModelForCausalLM

from qpeft_rerank.errors import AdapterError, InputError
from qpeft_rerank.models.adapter import CONFIG_FILE, load_adapter, save_adapter
from qpeft_rerank.models.base import BaseModel, load_base
from qpeft_rerank.models.batch import collate
from qpeft_rerank.models.config import AdapterConfig
from qpeft_rerank.models.likelihood import QueryLikelihood
from qpeft_rerank.models.lora import linear_layers
from qpeft_rerank.models.scorer import Scorer
from qpeft_rerank.passages import Passage
from qpeft_rerank.reranker import Reranker
from qpeft_rerank.scoring import BatchLimits, score_inputs
from qpeft_rerank.training.config import TrainingConfig
from qpeft_rerank.training.groups import StepPairs
from qpeft_rerank.training.step import PairLosses, step_loss

BEES, SALT = Passage("1", "Bees", TEXTS[0]), Passage("2", "", TEXTS[5])
PAIRS = [("how far", BEES), ("salt of roads", SALT), ("which camels", BEES), ("when", SALT), ("who", BEES)]
LORA = {"method": "hard-prompt", "lora_rank": 4}


@torch.inference_mode()
def scores(scorer: Scorer) -> torch.Tensor:
    return scorer(collate(scorer.encoder.encode(PAIRS)))


def together(scorer: Scorer) -> torch.Tensor:
    """The loss of all pairs in one training step, where passages may be run once."""
    step = StepPairs(PAIRS, [0, 2, 4], [1, 3, 1])
    return step_loss(PairLosses(scorer), scorer, step, TrainingConfig(margin=1.0), BatchLimits(10_000))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_base(tmp_path_factory.mktemp("base") / "llama")


@pytest.fixture
def base(folder: str) -> BaseModel:
    return load_base(folder, dtype="float32", device="cpu")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_fresh_lora_gives_exactly_the_scores_of_the_base_model(architecture: str) -> None:
    base = tiny_base(architecture)
    before, fingerprint = scores(tiny_scorer(base, "hard-prompt")), base.weight_fingerprint()
    scorer = QueryLikelihood(base, AdapterConfig(**LORA))
    assert torch.equal(scores(scorer), before)
    assert torch.equal(base.weight_fingerprint(), fingerprint), "the base model is still known"
    changed = tiny_scorer(base, **LORA)
    assert not torch.allclose(scores(changed), before, atol=1e-2)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt-neox", "opt", "phi"])
def test_all_linear_layers_of_the_blocks_and_no_others_get_one(architecture: str) -> None:
    base = tiny_base(architecture)
    outside = ("lm_head", "embed_out", "project_in", "project_out")
    linear = {
        name
        for name, module in base.model.named_modules()
        if type(module).__name__ in ("Linear", "Conv1D") and not name.endswith(outside)
    }
    scorer = QueryLikelihood(base, AdapterConfig(**LORA))
    with_lora = {name.removeprefix("lora.").partition(".lora_")[0] for name in scorer.trained_parameters()}
    assert with_lora == linear == set(linear_layers(base.model)) and len(linear) >= 8


@pytest.mark.parametrize("method", ["hard-prompt", "qpeft-a", "soft-prompt", "rankllama"])
def test_gradients_reach_the_trained_part_and_nothing_else(method: str, base: BaseModel) -> None:
    scorer = tiny_scorer(base, method, lora_rank=2, lora_dropout=0.0)
    together(scorer).backward()
    found = {name for name, p in scorer.named_parameters() if p.grad is not None}
    assert len(found) == len(scorer.trained_parameters())
    assert all(p.grad.abs().sum() > 0 for n, p in scorer.trained_parameters().items() if "lora_" in n)


def test_the_gradient_goes_through_shared_passages(base: BaseModel) -> None:
    scorer = tiny_scorer(base, **LORA, lora_dropout=0.0)
    assert scorer.can_share
    gradients = []
    for share in (True, False):
        scorer.can_share = share
        loss = together(scorer)
        loss.backward()
        gradients.append({n: p.grad.clone() for n, p in scorer.trained_parameters().items()})
        scorer.zero_grad()
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-4), name


def test_scorers_on_one_base_model_do_not_disturb_each_other(base: BaseModel) -> None:
    plain = tiny_scorer(base, "hard-prompt")
    expected = scores(plain)
    first = tiny_scorer(base, **LORA)
    of_first = scores(first)
    second = tiny_scorer(base, "qpeft-a", lora_rank=2, lora_targets=("down_proj",), seed=3)
    of_second = scores(second)
    for scorer, found in ((first, of_first), (plain, expected), (second, of_second), (first, of_first)):
        assert torch.equal(scores(scorer), found)
    assert not torch.allclose(of_first, expected, atol=1e-2)


def test_a_lora_leaves_the_base_model_with_its_scorer(base: BaseModel) -> None:
    def count() -> int:
        return sum(p.numel() for p in base.model.parameters())

    plain, kept = tiny_scorer(base, "hard-prompt"), tiny_scorer(base, **LORA)
    expected, of_kept, parameters = scores(plain), scores(kept), count()
    for method in ("hard-prompt", "rankllama", "qpeft-a"):
        scorer = tiny_scorer(base, method, lora_rank=2)
        scores(scorer)
        assert count() > parameters
        del scorer
        assert count() == parameters
        assert torch.equal(scores(plain), expected) and torch.equal(scores(kept), of_kept)
    del kept
    assert not [name for name, _ in base.model.named_parameters() if "lora_" in name]
    assert torch.equal(scores(plain), expected)
    assert torch.equal(scores(tiny_scorer(base, **LORA)), of_kept), "and there may be another one"


def test_only_the_lora_drops_out_and_only_in_training() -> None:
    scorer = tiny_scorer(tiny_base("gpt2", attn_pdrop=0.5, resid_pdrop=0.5), **LORA, lora_dropout=0.5)
    assert torch.equal(scores(scorer), scores(scorer))
    scorer.train()
    assert not torch.equal(scores(scorer), scores(scorer))
    with torch.no_grad():
        for name, parameter in scorer.trained_parameters().items():
            parameter.mul_("lora_A" in name)
    assert torch.equal(scores(scorer), scores(scorer)), "with B = 0 the model's own dropout would be seen"


@pytest.mark.parametrize("architecture", ["mixtral", "llama4"])
def test_a_lora_of_a_model_with_experts_is_kept(architecture: str, tmp_path: Path) -> None:
    scorer = tiny_scorer(tiny_base(architecture), **LORA)
    assert not any("router" in name or "gate." in name for name in scorer.trained_parameters())
    before = scores(scorer)
    save_adapter(tmp_path / "adapter", scorer)
    assert torch.equal(scores(load_adapter(tmp_path / "adapter", base=tiny_base(architecture))), before)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_lora_that_could_not_be_kept_is_refused_before_training(dropout: float) -> None:
    with pytest.raises(InputError, match="lora_targets: .*name .*layers"):
        tiny_scorer(tiny_base("deepseek"), **LORA, lora_dropout=dropout)
    scorer = tiny_scorer(tiny_base("deepseek"), **LORA, lora_dropout=dropout, lora_targets=("o_proj",))
    assert len(scorer.trained_parameters()) == 4


def test_chosen_targets(base: BaseModel) -> None:
    scorer = tiny_scorer(base, **LORA, lora_targets=("q_proj", "mlp.up_proj"))
    kinds = {name.partition(".lora_")[0].rpartition(".")[2] for name in scorer.trained_parameters()}
    assert kinds == {"q_proj", "up_proj"}
    for target in ("c_attn", "lm_head", "layers", "0"):
        with pytest.raises(InputError, match=f"lora_targets: '{target}' is no linear layer of a block"):
            tiny_scorer(base, **LORA, lora_targets=("q_proj", target))


def test_a_bf16_model_gets_a_lora_in_fp32(folder: str) -> None:
    scorer = tiny_scorer(load_base(folder, dtype="bfloat16", device="cpu"), **LORA)
    assert {p.dtype for p in scorer.trained_parameters().values()} == {torch.float32}
    together(scorer).backward()
    assert all(p.grad.isfinite().all() for p in scorer.trained_parameters().values())


def test_a_score_does_not_depend_on_the_batch(base: BaseModel) -> None:
    scorer = tiny_scorer(base, "qpeft-a", lora_rank=4)
    inputs = scorer.encoder.encode(PAIRS)
    for limits in (BatchLimits(10_000), BatchLimits(100)):
        found = torch.from_numpy(score_inputs(scorer, inputs, limits))
        assert torch.allclose(found, scores(scorer), atol=1e-4)


def test_the_inner_folder_is_a_plain_peft_adapter(folder: str, base: BaseModel, tmp_path: Path) -> None:
    scorer = tiny_scorer(base, **LORA)
    expected = scores(scorer)
    save_adapter(tmp_path / "adapter", scorer)
    theirs = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(folder), tmp_path / "adapter" / "lora"
    ).eval()
    for pair, score in zip(scorer.encoder.encode(PAIRS), expected, strict=True):
        ids = torch.tensor([pair.before + pair.after])
        tokens = theirs(input_ids=ids).logits[0].log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])
        assert abs(tokens[-pair.scored :].mean() - score) < 1e-4
    for lora in (tmp_path / "adapter" / "lora", tmp_path / "adapter"):
        merged = load_base(folder, dtype="float32", lora=str(lora), device="cpu")
        assert torch.allclose(scores(tiny_scorer(merged, "hard-prompt")), expected, atol=1e-4)


def test_hints_are_trained_on_a_model_that_carries_a_lora(
    folder: str, base: BaseModel, tmp_path: Path
) -> None:
    save_adapter(tmp_path / "first", tiny_scorer(base, **LORA))
    carrying = load_base(folder, lora=str(tmp_path / "first" / "lora"), device="cpu")
    scorer = tiny_scorer(carrying, "qpeft-a")
    save_adapter(tmp_path / "second", scorer)
    assert torch.equal(scores(load_adapter(tmp_path / "second", device="cpu")), scores(scorer))
    with pytest.raises(AdapterError, match="another base model"):
        load_adapter(tmp_path / "second", base)
    both = tiny_scorer(carrying, "qpeft-a", lora_rank=2)
    save_adapter(tmp_path / "both", both)
    assert torch.equal(scores(load_adapter(tmp_path / "both", device="cpu")), scores(both))


@pytest.mark.parametrize("settings", [LORA, {"method": "qpeft-a", "lora_rank": 2}, {"method": "rankllama"}])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_reranker_has_its_lora_merged(architecture: str, settings: dict[str, Any], tmp_path: Path) -> None:
    options = {"model": save_base(tmp_path / "model", architecture), "dtype": "float32", "device": "cpu"}
    base = load_base(options["model"], dtype="float32", device="cpu")
    scorer = tiny_scorer(base, **settings)
    save_adapter(tmp_path / "adapter", scorer)
    reranker = Reranker.from_adapter(tmp_path / "adapter", **options)
    assert all(layer.merged for layer in reranker.scorer.lora.layers)
    assert torch.allclose(scores(reranker.scorer), scores(scorer), atol=1e-5)
    shared = Reranker.from_adapter(tmp_path / "adapter", base=base)  # others may use it: it stays as it is
    assert not any(layer.merged for layer in shared.scorer.lora.layers)
    with pytest.raises(AdapterError, match="merged into its model is not written"):
        save_adapter(tmp_path / "again", reranker.scorer)
    with pytest.raises(InputError, match="merged into this base model"):
        scores(tiny_scorer(reranker.scorer.base, "hard-prompt"))


def test_a_lora_of_another_training_or_none_is_an_error(base: BaseModel, tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("two", 2)):
        save_adapter(tmp_path / name, tiny_scorer(base, **LORA, seed=seed))
    shutil.rmtree(tmp_path / "one" / "lora")
    with pytest.raises(AdapterError, match=r"has no adapter_model.safetensors"):
        load_adapter(tmp_path / "one", base)
    shutil.copytree(tmp_path / "two" / "lora", tmp_path / "one" / "lora")
    with pytest.raises(AdapterError, match="is not the LoRA that was saved with"):
        load_adapter(tmp_path / "one", base)


def test_saving_again_replaces(base: BaseModel, tmp_path: Path) -> None:
    for seed in (1, 2):
        scorer = tiny_scorer(base, **LORA, seed=seed)
        save_adapter(tmp_path, scorer)
        assert torch.equal(scores(load_adapter(tmp_path, base)), scores(scorer))
    assert sorted(f.name for f in (tmp_path / "lora").iterdir()) == [CONFIG_FILE, "adapter_model.safetensors"]
    config = json.loads((tmp_path / CONFIG_FILE).read_text())
    assert config["trained_parameters"] == sum(p.numel() for p in scorer.trained_parameters().values())


def test_a_model_whose_lora_could_not_be_merged_takes_no_other(base: BaseModel) -> None:
    carrying = get_peft_model(base.model, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    with pytest.raises(InputError, match="lora_rank: a quantised model"):
        tiny_scorer(replace(base, model=carrying), **LORA)
