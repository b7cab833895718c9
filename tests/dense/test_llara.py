"""LLaRA: its loss is the stated one, and its folder is a plain model that RepLLaMA starts from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import TEXTS, byte_tokenizer, save_base, tiny_base
from transformers import AutoModelForCausalLM, AutoTokenizer

from qpeft_rerank.dense.config import EncoderConfig
from qpeft_rerank.dense.encoder import open_encoder
from qpeft_rerank.dense.llara import LlaraObjective, adapt
from qpeft_rerank.dense.llara_config import LlaraConfig
from qpeft_rerank.dense.model_folder import save_model
from qpeft_rerank.dense.texts import Followed
from qpeft_rerank.errors import InputError
from qpeft_rerank.models.base import load_base
from qpeft_rerank.models.inputs import STOPWORDS
from qpeft_rerank.training.loop import Listener

PAIRS = [Followed(TEXTS[i], TEXTS[i + 1] if i < 5 else "") for i in range(6)]
CONFIG = LlaraConfig(passage_tokens=40, batch_size=3, learning_rate=3e-3, warmup=0.0)


def says(piece: str) -> bool:
    return any(c.isalnum() for c in piece)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2", "gemma2"])
def test_the_losses_are_those_of_the_docstring(architecture):
    base = tiny_base(architecture, byte_tokenizer())
    objective = LlaraObjective(base, CONFIG)
    tokenizer, llara = base.tokenizer, objective.scorer
    text, following = "Salt roads, the desert", "Glaciers carve valleys"
    language, encoding, predicted = llara(llara.collate([Followed(text, following)]))

    def ids(part):
        return tokenizer(part, add_special_tokens=False)["input_ids"]

    def bag(words):  # by hand: the text has one stopword, "the", and one comma
        kept = [i for i in ids(words) if says(tokenizer.decode([i])) and i not in ids(" the")]
        assert len(ids(" the")) == 1 and "the" in STOPWORDS
        return sorted(set(kept))

    def logits(prompt, first):
        marks = tokenizer.convert_tokens_to_ids([f"<s{i}>" for i in range(first, first + 8)])
        row = [tokenizer.bos_token_id, *ids('"'), *ids(text), *ids(prompt), *marks]
        with torch.no_grad():
            return base.model(torch.tensor([row])).logits[0]

    def lost(values, members):
        return -values[-8:].max(dim=0).values.log_softmax(dim=0)[members].mean().item()

    summary = logits('", summarize the above passage within eight words: ', 1)
    prediction = logits('", predict the following passage within eight words: ', 9)
    assert encoding.item() == pytest.approx(lost(summary, bag(text)), abs=1e-4)
    assert predicted.item() == pytest.approx(lost(prediction, bag(following)), abs=1e-4)
    start = 1 + len(ids('"'))
    expected = torch.nn.functional.cross_entropy(
        summary[start - 1 : start - 1 + len(ids(text))], torch.tensor(ids(text))
    )
    assert language.item() == pytest.approx(expected.item(), abs=1e-4)
    total = objective.loss(objective.module, [Followed(text, following)])
    by_hand = language + 0.1 * (encoding + predicted) / 2
    assert total.item() == pytest.approx(by_hand.item(), abs=1e-4)


def test_a_passage_without_a_next_one_counts_for_itself_alone():
    llara = LlaraObjective(tiny_base(), CONFIG).scorer
    both = llara(llara.collate([PAIRS[0], Followed(TEXTS[5], "")]))
    first, last = llara(llara.collate(PAIRS[:1])), llara(llara.collate([Followed(TEXTS[5], "")]))
    assert last[2].item() == 0
    assert both[2].item() == pytest.approx(first[2].item(), abs=1e-4)
    assert both[1].item() == pytest.approx((first[1].item() + last[1].item()) / 2, abs=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_papers_own_prompts_end_in_one_token(tmp_path, architecture):
    base = tiny_base(architecture, byte_tokenizer())
    objective = LlaraObjective(base, replace(CONFIG, template="llara-paper", lm_weight=0.0, bag_weight=2.0))
    assert len(base.tokenizer) == len(byte_tokenizer())
    text, following, llara = "Salt roads, desert", "Glaciers carve valleys", objective.scorer
    _, *found = llara(llara.collate([Followed(text, following)]))
    for loss, prompt, target in zip(
        found, (" The input sentence is:", " The next sentence is:"), (text, following), strict=True
    ):
        parts = [base.tokenizer(part, add_special_tokens=False)["input_ids"] for part in (text, prompt)]
        ids = [base.tokenizer.bos_token_id, *parts[0], *parts[1], base.tokenizer.eos_token_id]
        with torch.no_grad():
            values = base.model(torch.tensor([ids])).logits[0, -1].log_softmax(dim=0)
        members = {i for i in base.tokenizer(target)["input_ids"] if says(base.tokenizer.decode([i]))}
        assert loss.item() == pytest.approx(-values[sorted(members)].mean().item(), abs=1e-4)
    total = objective.loss(objective.module, [Followed(text, following)])
    assert total.item() == pytest.approx(sum(loss.item() for loss in found), abs=1e-4)
    objective.save(tmp_path / "adapted", {"epoch": 1})
    encoder = open_encoder(str(tmp_path / "adapted"), device="cpu", dtype="float32")
    assert encoder.config == EncoderConfig.of("llara-paper")


def test_where_no_passage_has_a_next_one_its_own_words_weigh_fully():
    objective = LlaraObjective(tiny_base(), CONFIG)
    last = [Followed(TEXTS[4], ""), Followed(TEXTS[5], "")]
    language, encoding, following = objective.scorer(objective.scorer.collate(last))
    assert following.item() == 0
    total = objective.loss(objective.module, last).item()
    assert total == pytest.approx((language + 0.1 * encoding).item(), abs=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("rank", [0, 2])
def test_the_folder_is_a_plain_model_that_makes_the_same_vectors(tmp_path, architecture, rank, monkeypatch):
    model = save_base(tmp_path / "model", architecture)
    base = load_base(model, dtype="float32", device="cpu")
    losses, kept = [], []
    # A LoRA would leave the model at the end of the training.
    objective = "qpeft_rerank.dense.llara.LlaraObjective"
    monkeypatch.setattr(objective, lambda *of: kept.append(LlaraObjective(*of)) or kept[-1])
    record = adapt(
        base,
        PAIRS,
        replace(CONFIG, epochs=6, lora_rank=rank),
        tmp_path / "adapted",
        listener=Listener(on_step=lambda step, steps, loss: losses.append(loss)),
    )
    assert np.mean(losses[-2:]) < np.mean(losses[:2])
    assert not (tmp_path / "adapted" / "checkpoint").exists() and record["best_epoch"] == 6
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "adapted")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "adapted", dtype=torch.float32)
    ids = tokenizer("bees <s1><s16>", return_tensors="pt")["input_ids"]
    assert len(tokenizer) == len(byte_tokenizer()) + 16 and ids[0, -1] == len(tokenizer) - 1
    base.model.eval()  # a LoRA's dropout was on in the last step
    with torch.no_grad():
        np.testing.assert_allclose(
            again(ids).logits.numpy(), base.model(input_ids=ids).logits.numpy(), atol=1e-4
        )
    encoder = open_encoder(str(tmp_path / "adapted"), device="cpu", dtype="float32")
    assert encoder.config.query_marks[0] == "<s9>" and encoder.dimension == 32
    words = len(byte_tokenizer())
    plain = dict(AutoModelForCausalLM.from_pretrained(model).named_parameters())
    moved = {
        n for n, p in again.named_parameters() if n in plain and not torch.equal(p[:words], plain[n][:words])
    }
    embeddings = {n for n in plain if "embed" in n or "wte" in n or "wpe" in n or "lm_head" in n}
    assert moved if rank else moved == set(plain)  # a LoRA leaves the words' own vectors as they were
    assert not (rank and moved & embeddings)


def test_a_model_whose_generation_settings_cannot_be_saved_is_saved(tmp_path):
    base = tiny_base()
    base.model.generation_config.temperature, base.model.generation_config.do_sample = 0.9, False
    with pytest.raises(ValueError, match="temperature"):
        base.model.save_pretrained(tmp_path / "plain")
    save_model(tmp_path / "ours", base, None, EncoderConfig.of("llara"), "LLaRA", {})
    assert {"config.json", "encoder.json"} <= {file.name for file in (tmp_path / "ours").iterdir()}
    assert base.model.generation_config.temperature == 0.9


def test_after_a_kill_an_adaptation_ends_in_the_same_weights(tmp_path):
    model = save_base(tmp_path / "model")

    class Killed(BaseException):
        pass

    def run(output, listener=None, resume=False):
        base = load_base(model, dtype="float32", device="cpu")
        config = replace(CONFIG, epochs=2, checkpoint_steps=1)
        adapt(base, PAIRS, config, tmp_path / output, resume=resume, listener=listener)
        return (tmp_path / output / "model.safetensors").read_bytes()

    def kill(step, steps, loss):
        if step == 3:
            raise Killed

    with pytest.raises(Killed):
        run("killed", Listener(on_step=kill))
    with pytest.raises(InputError, match="unfinished training"):
        run("killed")
    assert run("killed", resume=True) == run("whole")


def test_impossible_settings_are_errors():
    for changes, word in (
        ({"lm_weight": 0.0, "bag_weight": 0.0}, "both are 0"),
        ({"passage_words": 0}, "passage_words"),
        ({"passage_tokens": 1}, "passage_tokens"),
        ({"lora_rank": 4, "weight_decay": 0.1}, "weight_decay"),
        ({"batch_size": 0}, "batch_size"),
    ):
        with pytest.raises(InputError, match=word):
            LlaraConfig(**changes)
