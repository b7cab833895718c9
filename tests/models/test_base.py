"""A base model is loaded from safetensors, checked before use, and known again."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import ARCHITECTURES, byte_tokenizer, save_base, tiny_base, tiny_scorer
from transformers import AutoModelForCausalLM, BertConfig, BertLMHeadModel

from qpeft_rerank.dense.encoder import open_encoder
from qpeft_rerank.errors import DependencyError, InputError
from qpeft_rerank.models.adapter import fetch_folder, load_adapter
from qpeft_rerank.models.base import load_base, same_weights
from qpeft_rerank.models.batch import collate
from qpeft_rerank.models.config import AdapterConfig
from qpeft_rerank.models.likelihood import QueryLikelihood
from qpeft_rerank.passages import Passage

PAIRS = [("how far", Passage("d", "", "the bees fly far")), ("salt", Passage("d", "", "roads"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_base(tmp_path_factory.mktemp("base") / "llama")


def copied(folder: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_a_model_is_loaded_frozen_and_in_eval_mode(folder: str) -> None:
    base = load_base(folder, device="cpu")
    assert base.name == folder and base.device.type == "cpu" and base.context == 512
    assert not base.model.training and not any(p.requires_grad for p in base.model.parameters())
    for name in ("float32", "bfloat16"):
        assert load_base(folder, dtype=name, device="cpu").dtype == getattr(torch, name)


@pytest.mark.parametrize(
    ("features", "expected"),
    [({"avx512_bf16": True}, torch.bfloat16), ({"amx_bf16": True}, torch.bfloat16), ({}, torch.float32)],
)
def test_a_cpu_that_computes_in_bfloat16_is_asked_to(
    folder: str, monkeypatch: pytest.MonkeyPatch, features: dict[str, bool], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features, raising=False)
    assert load_base(folder, device="cpu").dtype == expected


@pytest.mark.parametrize("architecture", ["qwen2", "gemma2", "gpt2", "opt", "phi", "gpt-neox"])
def test_every_architecture_comes_back_from_its_folder(architecture: str, tmp_path: Path) -> None:
    base = load_base(save_base(tmp_path / architecture, architecture), device="cpu")
    assert same_weights(base.weight_fingerprint(), tiny_base(architecture).weight_fingerprint())


def test_a_missing_or_empty_folder_and_an_unknown_name_are_errors(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, message in (
        (str(tmp_path / "nowhere"), "does not exist"),
        (str(tmp_path / "empty"), "no config.json"),
        ("no-such-organisation/no-such-model", "no folder, and the hub does not give it"),
    ):
        with pytest.raises(InputError, match=message) as error:
            load_base(name, device="cpu")
        assert name in str(error.value) and "\n" not in str(error.value)


def test_a_hub_that_cannot_be_reached_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)  # between two tries
    for load in (load_base, open_encoder, load_adapter):
        with pytest.raises(InputError, match="'no-such/model' is no folder, and the hub"):
            load("no-such/model")
    assert not slept


def test_damaged_or_incomplete_folders_are_errors(folder: str, tmp_path: Path) -> None:
    for name, damage in {
        "cut": lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-50]),
        "config": lambda f: (f / "config.json").write_text("{"),
        "unknown": lambda f: (f / "config.json").write_text('{"model_type": "unheard-of"}'),
        "tokenizer": lambda f: [file.unlink() for file in f.glob("tokenizer*")],
    }.items():
        broken = Path(shutil.copytree(folder, tmp_path / name))
        damage(broken)
        with pytest.raises(InputError, match="cannot be loaded") as error:
            load_base(str(broken), device="cpu")
        assert "\n" not in str(error.value)


def test_a_pickled_checkpoint_is_not_read(folder: str, tmp_path: Path) -> None:
    pickled = copied(folder, tmp_path)
    (pickled / "model.safetensors").unlink()
    torch.save(tiny_base().model.state_dict(), pickled / "pytorch_model.bin")
    with pytest.raises(InputError, match="safetensors"):
        load_base(str(pickled), device="cpu")


def test_a_model_that_looks_ahead_is_refused(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertLMHeadModel(BertConfig(vocab_size=420, **sizes)).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="not causal"):
        load_base(str(tmp_path), dtype="float32", device="cpu")


def test_a_model_that_needs_more_than_embeddings_is_refused(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    forward = type(model).forward

    def peeking(
        self, input_ids=None, inputs_embeds=None, **options
    ):  # as models with an embedding for each layer do
        output = forward(self, input_ids=input_ids, inputs_embeds=inputs_embeds, **options)
        if input_ids is not None:
            output.logits = output.logits * 1.5
        return output

    monkeypatch.setattr(type(model), "forward", peeking)
    with pytest.raises(InputError, match="cannot take hints"):
        load_base(folder, device="cpu")


def test_a_tokenizer_with_ids_that_the_model_lacks_is_refused(folder: str, tmp_path: Path) -> None:
    large = copied(folder, tmp_path)
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["zyzzyva", "quagga", "okapi", "axolotl"])
    tokenizer.save_pretrained(large)
    with pytest.raises(InputError, match="vocabulary 420"):
        load_base(str(large), device="cpu")


def test_a_pad_token_beyond_the_vocabulary_does_no_harm(folder: str, tmp_path: Path) -> None:
    padded = copied(folder, tmp_path)
    byte_tokenizer(pad="<pad>").save_pretrained(padded)
    small = tiny_base(tokenizer=byte_tokenizer()).model
    small.resize_token_embeddings(len(byte_tokenizer()))
    small.save_pretrained(padded)
    base = load_base(str(padded), device="cpu")
    assert base.tokenizer.pad_token_id == len(byte_tokenizer()) == base.embeddings.num_embeddings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "dtype: 'int8'"),
        ({"device": "tpu7"}, "device: 'tpu7'"),
        ({"quantize": "3bit"}, "quantize: '3bit'"),
        ({"device": "cpu", "device_map": "auto"}, "exclude each other"),
        ({"device_map": "nowhere"}, "nowhere"),
    ],
)
def test_nonsense_options_are_errors(folder: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_base(folder, **options)


def test_quantisation_says_what_to_install(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(DependencyError, match="pip install"):
        load_base(folder, quantize="4bit", device="cpu")


def test_a_fingerprint_knows_a_model_in_any_type_and_no_other() -> None:
    prints = {name: tiny_base(name).weight_fingerprint() for name in ARCHITECTURES}
    for name in ("llama", "gpt2", "gemma2"):
        base = tiny_base(name)
        QueryLikelihood(
            base, AdapterConfig(method="hard-prompt")
        )  # puts its own module around the output layer
        assert same_weights(base.weight_fingerprint(), prints[name])
        for dtype in (torch.bfloat16, torch.float16):
            base.model.to(dtype)
            assert same_weights(base.weight_fingerprint(), prints[name])
        assert not same_weights(tiny_base(name, seed=1).weight_fingerprint(), prints[name])
    assert not same_weights(prints["llama"], prints["gpt-neox"])
    assert not same_weights(prints["llama"], torch.empty(0))


def test_a_fingerprint_knows_a_tokenizer() -> None:
    prints = [
        tiny_base(tokenizer=t).tokenizer_fingerprint()
        for t in (byte_tokenizer(), byte_tokenizer(bos=None), byte_tokenizer(eos="<end>"))
    ]
    assert len(set(prints)) == 3 and tiny_base("gpt2").tokenizer_fingerprint() == prints[0]


def test_a_base_model_can_carry_a_lora(folder: str, tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    torch.manual_seed(0)
    carrying = get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder),
        LoraConfig(
            r=4,
            target_modules=["q_proj", "down_proj", "lm_head"],
            task_type="CAUSAL_LM",
            init_lora_weights=False,
        ),
    )
    carrying.save_pretrained(tmp_path / "lora")
    base = load_base(folder, dtype="float32", lora=str(tmp_path / "lora"), device="cpu")
    scorer = tiny_scorer(base, "hard-prompt")
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path / "lora").eval()
    for pair in scorer.encoder.encode(PAIRS):
        ids = torch.tensor([pair.before + pair.after])
        expected = (
            theirs(input_ids=ids)
            .logits[0]
            .log_softmax(-1)[:-1]
            .gather(1, ids[0, 1:, None])[-pair.scored :]
            .mean()
        )
        assert abs(scorer(collate([pair])) - expected) < 1e-4
    plain = tiny_scorer(load_base(folder, device="cpu"), "hard-prompt")
    assert not torch.allclose(
        plain(collate(scorer.encoder.encode(PAIRS))), scorer(collate(scorer.encoder.encode(PAIRS))), atol=1e-3
    )
    assert not any(p.requires_grad for p in base.model.parameters())


def test_a_lora_that_is_missing_or_of_another_model_is_an_error(folder: str, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    with pytest.raises(InputError, match="no folder"):
        fetch_folder(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="adapter_model.safetensors"):
        load_base(folder, lora=str(tmp_path), device="cpu")
    other = get_peft_model(
        tiny_base("gpt2").model, LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    )
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="does not fit") as error:
        load_base(folder, lora=str(tmp_path / "other"), device="cpu")
    assert "\n" not in str(error.value)


def test_a_model_that_lacks_weights_is_refused(folder: str, tmp_path: Path) -> None:
    deeper = copied(folder, tmp_path)
    config = json.loads((deeper / "config.json").read_text())
    (deeper / "config.json").write_text(
        json.dumps(config | {"num_hidden_layers": config["num_hidden_layers"] + 1})
    )
    with pytest.raises(InputError, match=r"is not whole: its files lack model\.layers.* and \d+ more"):
        load_base(deeper, device="cpu")


def test_a_model_without_an_output_layer_is_an_encoder_only(folder: str, tmp_path: Path) -> None:
    whole = AutoModelForCausalLM.from_pretrained(folder)
    whole.config.tie_word_embeddings = False
    whole.model.save_pretrained(tmp_path / "body")
    byte_tokenizer().save_pretrained(tmp_path / "body")
    with pytest.raises(InputError, match=r"no output layer \(lm_head\.weight\): it is an encoder"):
        load_base(tmp_path / "body", device="cpu")
    torch.manual_seed(1)
    first = load_base(tmp_path / "body", device="cpu", output_layer=False)
    torch.manual_seed(2)
    again = load_base(tmp_path / "body", device="cpu", output_layer=False)
    assert torch.equal(first.weight_fingerprint(), again.weight_fingerprint())
    assert open_encoder(str(tmp_path / "body"), device="cpu").encode_queries(["bees"]).shape[0] == 1


def test_a_model_that_computes_no_numbers_is_refused(folder: str, tmp_path: Path) -> None:
    broken = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        broken.model.norm.weight.fill_(torch.nan)
    broken.save_pretrained(tmp_path / "nan")
    byte_tokenizer().save_pretrained(tmp_path / "nan")
    with pytest.raises(InputError, match="computes no finite numbers in float32: try another dtype"):
        load_base(tmp_path / "nan", dtype="float32", device="cpu")


@pytest.mark.parametrize("change", ["names of the body", "a part"])
def test_a_lora_whose_weights_find_no_place_is_refused(folder: str, tmp_path: Path, change: str) -> None:
    scorer = tiny_scorer(tiny_base(), "hard-prompt", lora_rank=2)
    scorer.lora.save(tmp_path / "lora", {})
    file = tmp_path / "lora" / "adapter_model.safetensors"
    weights = load_file(file)
    if change == "a part":
        weights = dict(list(weights.items())[:3])
    else:
        weights = {k.replace("base_model.model.model.", "base_model.model."): v for k, v in weights.items()}
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"does not fit the model: \d+ of its \d+ weights have a place"):
        load_base(folder, lora=tmp_path / "lora", device="cpu")
