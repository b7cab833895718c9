"""What is written down of an encoder opens the same encoder again: commit, LoRA, bits, and how it is run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from tiny_models import TEXTS, byte_tokenizer, corpus, save_base, tiny_base
from transformers import AutoConfig, AutoModel, BitsAndBytesConfig

from qpeft_rerank.cli.encoder_options import EncoderOptions
from qpeft_rerank.dense.causal import CausalEncoder
from qpeft_rerank.dense.config import EncoderConfig
from qpeft_rerank.dense.description import encoder_arguments
from qpeft_rerank.dense.encoder import open_encoder
from qpeft_rerank.dense.hub import commit_in, commit_of
from qpeft_rerank.dense.repllama import RepLlamaObjective
from qpeft_rerank.errors import InputError
from qpeft_rerank.models.base import load_base
from qpeft_rerank.models.config import AdapterConfig
from qpeft_rerank.training.config import TrainingConfig

CPU = {"device": "cpu", "dtype": "float32"}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Puts a folder into the cache of the hub as the next commit of a repository's main branch."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    commit_of.cache_clear()

    def commit(name, folder, number):
        repository, revision = tmp_path / "hub" / f"models--{name.replace('/', '--')}", f"{number:040x}"
        shutil.copytree(folder, repository / "snapshots" / revision)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(revision)
        return revision

    yield commit
    commit_of.cache_clear()


def test_a_model_of_the_hub_is_written_down_by_its_commit(tmp_path, hub):
    old = hub("me/model", save_base(tmp_path / "old"), 1)
    encoder = open_encoder("me/model", **CPU)
    description = json.loads(json.dumps(encoder.describe()))
    assert (description["name"], description["revision"]) == ("me/model", old)
    hub("me/model", save_base(tmp_path / "new", seed=1), 2)  # the branch moves on
    again = open_encoder(**encoder_arguments(description), device="cpu")
    np.testing.assert_array_equal(again.encode_queries(["who"]), encoder.encode_queries(["who"]))
    newest = open_encoder("me/model", **CPU)
    assert np.abs(newest.encode_queries(["who"]) - encoder.encode_queries(["who"])).max() > 1e-3


def test_so_is_an_adapter_of_the_hub(tmp_path, hub):
    base = load_base(save_base(tmp_path / "model"), **CPU)
    vectors = []
    for number in (1, 2):
        objective = RepLlamaObjective(
            base,
            AdapterConfig("repllama", lora_rank=2),
            corpus(TEXTS),
            TrainingConfig().for_method("repllama"),
        )
        for parameter in objective.scorer.trained_parameters().values():
            parameter.data += 0.1 * number
        objective.save(tmp_path / str(number), {"epoch": 0})
        revision = hub("me/encoder", tmp_path / str(number), number)
        encoder = open_encoder(adapter="me/encoder", **CPU)
        vectors.append(encoder.encode_queries(["who"]))
        if number == 1:
            description = encoder.describe()
            assert (description["lora"], description["lora_revision"]) == ("me/encoder", revision)
    again = open_encoder(**encoder_arguments(description), device="cpu")
    np.testing.assert_array_equal(again.encode_queries(["who"]), vectors[0])
    assert np.abs(vectors[1] - vectors[0]).max() > 1e-3


def test_settings_that_lie_beside_a_model_of_the_hub_are_read(tmp_path, hub):
    folder = save_base(tmp_path / "model")
    settings = EncoderConfig(query_prefix="ask: ").to_dict()
    content = {"format": "qpeft-rerank encoder 1", "settings": settings}
    (tmp_path / "model" / "encoder.json").write_text(json.dumps(content))
    hub("me/model", folder, 1)
    assert open_encoder("me/model", **CPU).config.query_prefix == "ask: "


def test_a_folder_has_no_commit(tmp_path):
    assert commit_of("demo") is None and commit_of(save_base(tmp_path / "model")) is None
    assert commit_in(tmp_path / "snapshots" / "abc" / "config.json") == "abc"


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_quantised_weights_are_asked_for_again(bits):
    base = tiny_base()
    base.model.config.quantization_config = BitsAndBytesConfig(**{f"load_in_{bits}": True})
    description = json.loads(json.dumps(CausalEncoder(base, EncoderConfig()).describe()))
    assert encoder_arguments(description)["quantize"] == bits
    plain = CausalEncoder(replace(base, model=tiny_base().model), EncoderConfig()).describe()
    assert "quantize" not in encoder_arguments(plain)


def test_a_model_is_run_again_as_it_was(tmp_path):
    """As a causal one, though its folder is one of sentence-transformers."""
    folder = save_base(tmp_path / "model")
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    (tmp_path / "model" / "modules.json").write_text(json.dumps(modules))
    encoder = open_encoder(folder, template="repllama", **CPU)
    again = open_encoder(**encoder_arguments(encoder.describe()), device="cpu")
    np.testing.assert_array_equal(again.encode_queries(["who"]), encoder.encode_queries(["who"]))
    assert type(again) is type(encoder)


def test_so_is_a_bidirectional_one(tmp_path):
    tokenizer = byte_tokenizer(pad="<pad>")
    config = AutoConfig.for_model(
        "distilbert", vocab_size=len(tokenizer), dim=32, hidden_dim=48, n_layers=2, n_heads=4
    )
    AutoModel.from_config(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    encoder = open_encoder(str(tmp_path / "model"), settings={"pooling": "mean"}, **CPU)
    again = open_encoder(**encoder_arguments(encoder.describe()), device="cpu")
    np.testing.assert_array_equal(again.encode_queries(["who"]), encoder.encode_queries(["who"]))


KNOWN = {
    "model": "m",
    "revision": "1",
    "adapter": "a",
    "adapter_revision": "2",
    "quantize": "4bit",
    "template": "plain",
    "settings": {"query_tokens": 7},
}


@pytest.mark.parametrize(
    "flags, changes, gone",
    [
        ({}, {}, ()),
        ({"model": "n"}, {"model": "n"}, ("revision",)),
        ({"adapter": "b"}, {"adapter": "b"}, ("adapter_revision",)),
        ({"lora": "b"}, {"lora": "b"}, ("adapter", "adapter_revision")),
        ({"template": "llara"}, {"template": "llara", "settings": {}}, ()),
        ({"query_tokens": 9}, {"settings": {"query_tokens": 9}}, ()),
        ({"adapter_revision": "3"}, {"adapter_revision": "3"}, ()),
    ],
)
def test_a_flag_wins_over_what_is_known_and_over_what_depends_on_it(monkeypatch, flags, changes, gone):
    monkeypatch.setattr("qpeft_rerank.dense.encoder.open_encoder", lambda **arguments: arguments)
    found = EncoderOptions(**flags).open_encoder(**KNOWN)
    expected = {**KNOWN, **changes, "batch_tokens": None}
    assert found == {key: value for key, value in expected.items() if key not in gone}


def test_a_revision_of_no_adapter_is_an_error():
    with pytest.raises(InputError, match="--adapter-revision is of an adapter"):
        EncoderOptions(model="m", adapter_revision="1").open_encoder()
