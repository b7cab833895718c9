"""Training an encoder: InfoNCE, a folder that gives the same vectors again, no change by a kill."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import TEXTS, corpus, save_base, tiny_base, tiny_scorer

from qpeft_rerank.dense.encoder import SAME_PROBE, encode_probe, open_encoder
from qpeft_rerank.dense.repllama import DotProducts, RepLlamaObjective
from qpeft_rerank.dense.vectors import read_probe
from qpeft_rerank.errors import AdapterError, InputError
from qpeft_rerank.models.adapter import load_adapter, save_adapter
from qpeft_rerank.models.base import load_base
from qpeft_rerank.models.config import AdapterConfig
from qpeft_rerank.training.config import TrainingConfig
from qpeft_rerank.training.data import TrainingData
from qpeft_rerank.training.groups import Group, TrainingTopic
from qpeft_rerank.training.loop import Listener, train
from qpeft_rerank.trec import Ranking, ScoredDoc

TOPICS = {
    f"q{i}": text for i, text in enumerate(["bees dance", "old lighthouse", "hints", "who", "sand", "salt"])
}
QRELS = {f"q{i}": {f"d{i}": 1} for i in range(6)}
RUN = [Ranking(qid, [ScoredDoc(f"d{d}", -float(d)) for d in range(6)]) for qid in TOPICS]
SETTINGS = AdapterConfig("repllama", lora_rank=2, lora_dropout=0.0)
TRAINING = TrainingConfig(batch_size=3, epochs=2, learning_rate=0.01).for_method("repllama")
PASSAGES = corpus(TEXTS)


def judged():
    return TrainingData(iter(RUN), TOPICS, QRELS)


def groups(count=3):
    topics = [TrainingTopic(f"q{i}", TOPICS[f"q{i}"], [f"d{i}"], [f"d{5 - i}"]) for i in range(count)]
    return [Group(topic, topic.positives[0], topic.negatives) for topic in topics]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("in_batch", [True, False])
def test_the_loss_is_infonce_over_hard_and_in_batch_negatives(architecture, in_batch):
    objective = RepLlamaObjective(
        tiny_base(architecture), SETTINGS, PASSAGES, replace(TRAINING, in_batch=in_batch)
    )
    encoder = objective.scorer.encoder
    loss = objective.loss(objective.module, groups())
    vectors = {d: encoder.encode_passages([PASSAGES[d]])[0] for d in PASSAGES}
    expected = []
    for i in range(3):
        query = encoder.encode_queries([TOPICS[f"q{i}"]])[0]
        others = {f"d{d}" for d in range(6)} - {f"d{i}"} if in_batch else {f"d{5 - i}"}
        scores = np.array([query @ vectors[d] for d in [f"d{i}", *sorted(others)]]) / 0.01
        expected.append(-(scores[0] - scores.max() - np.log(np.exp(scores - scores.max()).sum())))
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-3, abs=1e-3)


def test_only_the_lora_learns_and_every_weight_of_it_does():
    objective = RepLlamaObjective(tiny_base(), SETTINGS, PASSAGES, TRAINING)
    with torch.no_grad():  # B is 0 at first, and A then has no gradient
        for parameter in objective.scorer.trained_parameters().values():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    objective.loss(objective.module, groups()).backward()
    for name, parameter in objective.scorer.trained_parameters().items():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    frozen = [p for n, p in objective.scorer.base.model.named_parameters() if "lora_" not in n]
    assert all(p.grad is None for p in frozen)


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def trained(request, tmp_path_factory):
    """(model folder, adapter folder, the record, the losses of the steps)"""
    folder = tmp_path_factory.mktemp(request.param)
    model, losses = save_base(folder / "model", request.param), []
    record = train(
        load_base(model, dtype="float32", device="cpu"),
        SETTINGS,
        replace(TRAINING, epochs=4),
        judged(),
        PASSAGES,
        folder / "encoder",
        dev=judged(),
        listener=Listener(on_step=lambda step, steps, loss: losses.append(loss)),
    )
    return model, folder / "encoder", record, losses


def test_training_lowers_the_loss_and_says_what_it_did(trained):
    _, folder, record, losses = trained
    assert record["epochs"][record["best_epoch"]]["dev_loss"] < record["epochs"][0]["dev_loss"]
    assert np.mean(losses[-2:]) < np.mean(losses[:2])
    assert record["settings"]["training"]["temperature"] == 0.01
    assert json.loads((folder / "encoder.json").read_text())["settings"]["query_prefix"] == "query: "
    assert (folder / "run.dev.txt").read_text().endswith("repllama\n")


def test_a_model_that_carries_a_lora_is_refused(tmp_path):
    carrying = replace(tiny_base(), lora="some-lora")
    with pytest.raises(InputError, match="carries the LoRA 'some-lora'"):
        train(carrying, SETTINGS, TRAINING, judged(), PASSAGES, tmp_path / "encoder")


def test_the_folder_opens_as_an_encoder_with_peft_or_without(trained, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, folder, _, _ = trained
    encoder = open_encoder(adapter=str(folder), device="cpu", dtype="float32")
    vector = encoder.encode_queries(["who"])[0]
    carrying = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), str(folder / "lora"))
    ids = AutoTokenizer.from_pretrained(model)("<s>query: who</s>", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        state = carrying(ids, output_hidden_states=True).hidden_states[-1][0, -1]
    np.testing.assert_allclose(vector, torch.nn.functional.normalize(state, dim=0).numpy(), atol=1e-5)
    plain = open_encoder(model, device="cpu", dtype="float32").encode_queries(["who"])[0]
    assert np.abs(vector - plain).max() > 1e-3
    alone = shutil.copytree(folder / "lora", tmp_path / "any")  # a peft LoRA by itself
    again = open_encoder(adapter=str(alone), device="cpu", dtype="float32")
    np.testing.assert_allclose(again.encode_queries(["who"])[0], vector, atol=1e-6)


def test_a_lora_of_the_body_alone_as_the_published_ones_is_taken_too(trained, tmp_path):
    from safetensors.torch import save_file

    model, folder, _, _ = trained
    weights = load_file(folder / "lora" / "adapter_model.safetensors")
    body = {key.replace("base_model.model.model.", "base_model.model."): w for key, w in weights.items()}
    assert body.keys() != weights.keys()
    save_file(body, tmp_path / "adapter_model.safetensors")
    config = json.loads((folder / "lora" / "adapter_config.json").read_text())
    config["task_type"] = "FEATURE_EXTRACTION"
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    options = {"device": "cpu", "dtype": "float32"}
    np.testing.assert_allclose(
        open_encoder(adapter=str(tmp_path), **options).encode_queries(["who"]),
        open_encoder(adapter=str(folder), **options).encode_queries(["who"]),
        atol=1e-6,
    )


def test_an_encoder_that_was_trained_in_bfloat16_opens_in_float32(tmp_path):
    base = load_base(save_base(tmp_path / "model"), dtype="bfloat16", device="cpu")
    RepLlamaObjective(base, SETTINGS, PASSAGES, TRAINING).save(tmp_path / "encoder", {"epoch": 0})
    encoder = open_encoder(adapter=str(tmp_path / "encoder"), device="cpu", dtype="float32")
    distance = 1 - (encode_probe(encoder) * read_probe(tmp_path / "encoder")).sum(axis=1).min()
    assert SAME_PROBE["float32"] < distance < SAME_PROBE["bfloat16"]


def test_another_base_model_is_an_error(trained, tmp_path):
    _, folder, _, _ = trained
    other = save_base(tmp_path / "other", "llama" if "qwen2" in str(folder) else "qwen2", seed=3)
    with pytest.raises((InputError, AdapterError), match="another encoder|does not fit"):
        open_encoder(other, adapter=str(folder), device="cpu", dtype="float32")
    gpt = save_base(tmp_path / "gpt", "gpt2")
    with pytest.raises(AdapterError, match="does not fit the model"):
        open_encoder(gpt, adapter=str(folder), device="cpu", dtype="float32")


def test_what_an_encoder_is_not_is_an_error(trained):
    model, folder, _, _ = trained
    with pytest.raises(InputError, match="a LoRA on one: name it as the adapter"):
        open_encoder(str(folder))
    with pytest.raises(InputError, match="pooling: 'mean' is not for a causal model"):
        open_encoder(model, adapter=str(folder), settings={"pooling": "mean"}, device="cpu", dtype="float32")


def test_an_adapter_of_one_method_is_no_adapter_of_another(trained, tmp_path):
    model, folder, _, _ = trained
    with pytest.raises(AdapterError, match="an encoder of the dense first stage, not a reranker"):
        load_adapter(folder)
    for lora in (folder, folder / "lora"):
        with pytest.raises(InputError, match="is of an encoder of the dense first stage"):
            load_base(model, lora=str(lora), device="cpu")
    save_adapter(tmp_path / "reranker", tiny_scorer(tiny_base(), "hard-prompt", lora_rank=2))
    for whole in (folder, tmp_path / "reranker"):
        with pytest.raises(AdapterError, match="is a part of an adapter: name the folder that it is in"):
            open_encoder(model, adapter=str(whole / "lora"), device="cpu")
    save_adapter(tmp_path / "hints", tiny_scorer(tiny_base(), "qpeft-a"))
    with pytest.raises(AdapterError, match="adapter_config.json is no LoRA's"):
        load_base(model, lora=str(tmp_path / "hints"), device="cpu")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"format": "qpeft-rerank adapter 1"}))
    with pytest.raises(AdapterError, match="a reranker of qpeft-rerank, not an encoder"):
        open_encoder(adapter=str(tmp_path))


class Killed(BaseException):
    pass


def test_after_a_kill_a_training_ends_in_the_same_weights(tmp_path):
    model = save_base(tmp_path / "model")
    training = replace(TRAINING, epochs=2, checkpoint_steps=1)
    settings = replace(SETTINGS, lora_dropout=0.1)

    def run(output, listener=None, resume=False):
        base = load_base(model, dtype="float32", device="cpu")
        train(
            base, settings, training, judged(), PASSAGES, tmp_path / output, resume=resume, listener=listener
        )
        return (tmp_path / output / "lora" / "adapter_model.safetensors").read_bytes()

    def kill(step, steps, loss):
        if step == 4:
            raise Killed

    with pytest.raises(Killed):
        run("killed", Listener(on_step=kill))
    assert run("killed", resume=True) == run("whole")


def test_dot_products_score_pairs_in_their_order():
    encoder = RepLlamaObjective(tiny_base(), SETTINGS, PASSAGES, TRAINING).scorer.encoder
    pairs = [("who", PASSAGES["d1"]), ("salt", PASSAGES["d1"]), ("who", PASSAGES["d0"])]
    found = DotProducts(encoder).score(pairs)
    for (query, passage), score in zip(pairs, found, strict=True):
        expected = encoder.encode_queries([query])[0] @ encoder.encode_passages([passage])[0]
        assert score == pytest.approx(float(expected), abs=1e-5)
