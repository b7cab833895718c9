"""RankLLaMA scores as transformers' sequence classification does, and reads and writes its checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tiny_models import TEXTS, byte_tokenizer, metaspace_tokenizer, save_base, tiny_base, tiny_scorer
from transformers import AutoModelForSequenceClassification

from qpeft_rerank.errors import AdapterError, InputError, PairError
from qpeft_rerank.models.adapter import load_adapter, save_adapter
from qpeft_rerank.models.base import BaseModel, load_base
from qpeft_rerank.models.batch import collate
from qpeft_rerank.models.scorer import Scorer
from qpeft_rerank.passages import Passage
from qpeft_rerank.reranker import Reranker
from qpeft_rerank.scoring import BatchLimits, score_inputs

TITLED, PLAIN = Passage("1", "Bees", TEXTS[0]), Passage("2", "", TEXTS[5])
NOTHING = Passage("3", "", "")
PAIRS = [("how far do they fly", TITLED), ("salt", PLAIN), ("which camels", TITLED), ("", NOTHING)]
SAME = {"atol": 1e-4, "rtol": 0}


@torch.inference_mode()
def scores(scorer: Scorer) -> torch.Tensor:
    return scorer(collate(scorer.encoder.encode(PAIRS)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_base(tmp_path_factory.mktemp("base") / "llama")


@pytest.fixture
def base(folder: str) -> BaseModel:
    return load_base(folder, dtype="float32", device="cpu")


def classifier(folder: str) -> Any:
    torch.manual_seed(5)
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)


@torch.inference_mode()
def score_of(model: Any, ids: list[int]) -> float:
    return model(input_ids=torch.tensor([ids])).logits[0, 0].item()


def made_by_peft(folder: str, output: Path, **settings: Any) -> Any:
    """A checkpoint as RankLLaMA's authors make them; returns the model."""
    model = get_peft_model(classifier(folder), LoraConfig(task_type="SEQ_CLS", r=4, **settings))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    model.save_pretrained(output)
    return model.eval()


TOKENIZERS = {
    "bytes": byte_tokenizer(),
    "metaspace": metaspace_tokenizer(),
    "no ends": byte_tokenizer(None, None),
}


@pytest.mark.parametrize(
    ("architecture", "tokenizer"),
    [
        *(("llama", tokenizer) for tokenizer in TOKENIZERS),
        *((architecture, "bytes") for architecture in ("qwen2", "gemma2", "gpt2", "opt")),
    ],
)
def test_the_score_is_that_of_a_sequence_classification_on_the_same_text(
    architecture: str, tokenizer: str, tmp_path: Path
) -> None:
    folder = save_base(tmp_path / "base", architecture, TOKENIZERS[tokenizer])
    base = load_base(folder, dtype="float32", device="cpu")
    scorer = tiny_scorer(base, "rankllama", lora_rank=4)
    save_adapter(tmp_path / "adapter", scorer)
    theirs = PeftModel.from_pretrained(classifier(folder), tmp_path / "adapter" / "lora").eval()
    found = scores(scorer)
    for (query, passage), score in zip(PAIRS, found.tolist(), strict=True):
        document = f"{passage.title} {passage.text}" if passage.title else passage.text
        ids = base.tokenizer(f"query: {query} document: {document}", add_special_tokens=False)["input_ids"]
        front, end = base.tokenizer.bos_token_id, base.tokenizer.eos_token_id
        ids = ([] if front is None else [front]) + ids + ([] if end is None else [end])
        assert score == pytest.approx(score_of(theirs, ids), abs=1e-4)
    assert found.std() > 0.05
    for options in ({"base": base}, {"dtype": "float32", "device": "cpu"}):
        reopened = load_adapter(tmp_path / "adapter", **options)
        assert torch.equal(scores(reopened), found) and reopened.config == scorer.config


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [("llama", {"lora_alpha": 3}), ("gpt2", {}), ("llama", {"use_dora": True, "use_rslora": True})],
)
def test_a_checkpoint_of_peft_scores_as_peft_does(
    architecture: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    folder = save_base(tmp_path / "base", architecture)
    targets = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn"]}[architecture]
    theirs = made_by_peft(
        folder, tmp_path / "rank", target_modules=targets, fan_in_fan_out=architecture == "gpt2", **settings
    )
    scorer = load_adapter(tmp_path / "rank", dtype="float32", device="cpu")
    tokenizer = byte_tokenizer()
    for (query, passage), score in zip(PAIRS, scores(scorer).tolist(), strict=True):
        # As published: two sequences, each with its beginning, and a blank even where there is no title.
        texts = (f"query: {query}", f"document: {passage.title} {passage.text}")
        ids = [i for t in texts for i in (tokenizer.bos_token_id, *tokenizer(t)["input_ids"])]
        assert score == pytest.approx(score_of(theirs, ids), abs=1e-4)
    assert scorer.config.method == "rankllama" and scorer.base.name == folder
    if "use_dora" in settings:
        with pytest.raises(AdapterError, match="copy its folder"):
            save_adapter(tmp_path / "again", scorer)
    else:
        save_adapter(tmp_path / "again", scorer)
        assert torch.equal(
            scores(load_adapter(tmp_path / "again", dtype="float32", device="cpu")), scores(scorer)
        )


def test_a_checkpoint_of_an_older_peft_scores_the_same(folder: str, tmp_path: Path) -> None:
    """Older versions of peft wrote fewer settings, and no word of the linear layer in them."""
    made_by_peft(folder, tmp_path / "new", target_modules=["q_proj"], lora_alpha=3)
    old = Path(shutil.copytree(tmp_path / "new", tmp_path / "old"))
    config = json.loads((old / "adapter_config.json").read_text())
    known = "base_model_name_or_path bias fan_in_fan_out inference_mode init_lora_weights layers_pattern "
    known += "layers_to_transform lora_alpha lora_dropout peft_type r revision target_modules task_type"
    kept = {name: config[name] for name in known.split()} | {"modules_to_save": None}
    (old / "adapter_config.json").write_text(json.dumps(kept))
    found = [scores(load_adapter(tmp_path / at, dtype="float32", device="cpu")) for at in ("new", "old")]
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("architecture", "layout"), [("llama", "default"), ("llama", "published"), ("llama4", "default")]
)
def test_a_score_does_not_depend_on_the_batch(architecture: str, layout: str) -> None:
    scorer = tiny_scorer(tiny_base(architecture), "rankllama", layout=layout)
    inputs = scorer.encoder.encode(PAIRS)
    with torch.inference_mode():
        alone = torch.cat([scorer(collate([one])) for one in inputs])
        assert torch.allclose(scorer(collate(inputs, pad=7)), alone, **SAME)
        assert torch.allclose(scorer(collate(inputs[::-1])).flip(0), alone, **SAME)
    for limits in (BatchLimits(10_000), BatchLimits(60), BatchLimits(10_000, pairs=2)):
        assert torch.allclose(torch.from_numpy(score_inputs(scorer, inputs, limits)), alone, **SAME)


def test_the_score_has_all_its_digits_under_mixed_precision(base: BaseModel) -> None:
    scorer = tiny_scorer(base, "rankllama")
    with torch.autocast("cpu", torch.bfloat16):
        found = scores(scorer)
    assert found.dtype == torch.float32 and torch.allclose(found, scores(scorer), atol=0.05)


def test_a_long_passage_is_cut_and_the_rest_of_the_input_never() -> None:
    base = tiny_base(max_position_embeddings=64)
    scorer = tiny_scorer(base, "rankllama", passage_tokens=20)
    pair, end = ("salt", Passage("1", "", " ".join(TEXTS))), base.tokenizer.eos_token_id
    short = scorer.encoder.encode([pair])[0]
    query = [base.tokenizer.bos_token_id, *base.tokenizer("query: salt")["input_ids"]]
    assert short.after[: len(query)] == query and short.after[-1] == end
    assert len(short.after) == len(query) + 20 + 1
    longer = tiny_scorer(base, "rankllama").encoder.encode([pair])[0]
    assert len(longer.after) == 64 and longer.after[-1] == end and longer.after[: len(query)] == query
    with pytest.raises(PairError, match="the query is too long: the model takes 64"):
        scorer.encoder.encode([("salt " * 40, PLAIN)])


def test_no_logits_over_the_vocabulary_are_made(base: BaseModel) -> None:
    tiny_scorer(base, "hard-prompt")  # leaves its own output layer there
    scorer = tiny_scorer(base, "rankllama")

    def never(*_: Any) -> None:
        raise AssertionError("the output layer was run")

    base.model.get_output_embeddings().register_forward_hook(never)
    assert scores(scorer).isfinite().all()


def test_only_lora_and_linear_layer_are_kept_and_another_base_model_is_an_error(
    base: BaseModel, tmp_path: Path
) -> None:
    scorer = tiny_scorer(base, "rankllama")
    save_adapter(tmp_path, scorer)
    assert set(load_file(tmp_path / "adapter_model.safetensors")) == {
        "score.weight",
        "base_model.fingerprint",
    }
    assert "2310.08319" in (tmp_path / "README.md").read_text()
    with pytest.raises(AdapterError, match="another base model"):
        load_adapter(tmp_path, tiny_base(seed=9))
    assert scores(load_adapter(tmp_path, tiny_base(seed=9), force=True)).isfinite().all()


def test_an_adapter_of_one_method_is_not_taken_for_another(
    folder: str, base: BaseModel, tmp_path: Path
) -> None:
    save_adapter(tmp_path / "ours", tiny_scorer(base, "rankllama"))
    made_by_peft(folder, tmp_path / "theirs", target_modules=["q_proj"])
    for lora in ("ours", "ours/lora", "theirs"):
        with pytest.raises(InputError, match="it is a RankLLaMA, an adapter by itself"):
            load_base(folder, lora=str(tmp_path / lora), device="cpu")
    with pytest.raises(AdapterError, match="is a part of an adapter: name the folder that it is in"):
        load_adapter(tmp_path / "ours" / "lora", base)
    get_peft_model(
        tiny_base().model, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")
    ).save_pretrained(tmp_path / "causal")
    with pytest.raises(AdapterError, match="peft adapter of type LORA: is it meant for --lora"):
        load_adapter(tmp_path / "causal", base)


def test_a_checkpoint_that_does_not_fit_is_an_error(folder: str, base: BaseModel, tmp_path: Path) -> None:
    made_by_peft(folder, tmp_path / "good", target_modules=["q_proj"])
    with pytest.raises(AdapterError, match="does not fit the model 'tiny-gpt2'"):
        load_adapter(tmp_path / "good", tiny_base("gpt2"))
    with pytest.raises(AdapterError, match="does not fit the model 'tiny-llama'.*shape"):
        load_adapter(tmp_path / "good", tiny_base(hidden_size=64))
    two = get_peft_model(
        AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2),
        LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"]),
    )
    two.save_pretrained(tmp_path / "two")
    with pytest.raises(AdapterError, match="no 'score.weight' for one label"):
        load_adapter(tmp_path / "two", base)
    pickled = Path(shutil.copytree(tmp_path / "good", tmp_path / "pickled"))
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    with pytest.raises(AdapterError, match="has no adapter_model.safetensors"):
        load_adapter(pickled, base)


def test_there_is_nothing_to_explain(base: BaseModel) -> None:
    with pytest.raises(InputError, match="'rankllama' cannot be explained"):
        Reranker(tiny_scorer(base, "rankllama")).explain("salt", PLAIN)
