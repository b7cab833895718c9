"""A folder of sentence-transformers gives the vectors that sentence-transformers gives, without it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny_models import HIDDEN, TEXTS, byte_tokenizer, save_base
from transformers import AutoConfig, AutoModel

from qpeft_rerank.dense.encoder import open_encoder
from qpeft_rerank.errors import InputError
from qpeft_rerank.passages import Passage

QUERIES = ["what do bees eat", "who", TEXTS[3]]


@pytest.fixture(params=["bert", "roberta"])
def bert(tmp_path, request):
    """A random model of two layers, as transformers saves it."""
    tokenizer = byte_tokenizer(pad="<pad>")
    torch.manual_seed(0)
    # RoBERTa has its first position after the number of the padding's id, which is 1 in real ones.
    padded = {"pad_token_id": tokenizer.pad_token_id} if request.param == "roberta" else {}
    config = AutoConfig.for_model(
        request.param,
        vocab_size=len(tokenizer),
        **padded,
        hidden_size=HIDDEN,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64 + padded.get("pad_token_id", 0),
    )
    AutoModel.from_config(config).eval().save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def as_sentence_transformers(folder, pooling, prompts=None, steps=(), tokens=32):
    """Add the files that sentence-transformers writes."""
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate([*kinds.items(), *steps])
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": HIDDEN, **pooling})
    )
    (folder / "sentence_bert_config.json").write_text(
        json.dumps({"max_seq_length": tokens, "do_lower_case": False})
    )
    if prompts:
        content = {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"}
        (folder / "config_sentence_transformers.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    "pooling",
    [
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False},
        {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True},
        {"pooling_mode": "lasttoken"},
    ],
    ids=["mean", "cls", "last"],
)
def test_vectors_are_those_of_sentence_transformers(bert, pooling):
    library = pytest.importorskip("sentence_transformers")
    as_sentence_transformers(bert, pooling, {"query": "question: ", "document": "text: "})
    encoder = open_encoder(str(bert), device="cpu", dtype="float32")
    model = library.SentenceTransformer(str(bert), device="cpu")
    expected = model.encode(QUERIES, prompt_name="query", normalize_embeddings=True)
    np.testing.assert_allclose(encoder.encode_queries(QUERIES), expected, atol=1e-5)
    passages = [Passage(str(i), "Title", text) for i, text in enumerate(TEXTS)]
    texts = [f"Title {text}" for text in TEXTS]
    expected = model.encode(texts, prompt_name="document", normalize_embeddings=True)
    np.testing.assert_allclose(encoder.encode_passages(passages), expected, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_plain_folder_pools_as_it_is_told(bert, pooling):
    encoder = open_encoder(str(bert), settings={"pooling": pooling}, device="cpu", dtype="float32")
    ids = encoder.base.tokenizer("who", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        states = AutoModel.from_pretrained(bert)(ids).last_hidden_state[0]
    expected = states.mean(dim=0) if pooling == "mean" else states[0]
    expected = torch.nn.functional.normalize(expected, dim=0).numpy()
    np.testing.assert_allclose(encoder.encode_queries(QUERIES)[1], expected, atol=1e-5)


def test_a_length_that_is_asked_for_may_be_up_to_the_models(bert, monkeypatch):
    monkeypatch.setattr("qpeft_rerank.dense.bidirectional._MOST_TOKENS", 10)
    settings = {"pooling": "mean", "passage_tokens": 40}
    encoder = open_encoder(str(bert), settings=settings, device="cpu", dtype="float32")
    assert (encoder.config.query_tokens, encoder.config.passage_tokens) == (10, 40)
    longer = open_encoder(str(bert), settings={**settings, "passage_tokens": 99}, device="cpu")
    most = {"bert": 64, "roberta": 63}[longer.base.model.config.model_type]
    assert longer.config.passage_tokens == most
    longer.encode_passages([Passage("a", "", " ".join(TEXTS) * 2)])


def test_steps_and_poolings_that_are_not_known_are_errors(bert):
    as_sentence_transformers(bert, {"pooling_mode": "mean"}, steps=[("3_Dense", "Dense")])
    with pytest.raises(InputError, match="step 'Dense'"):
        open_encoder(str(bert))
    as_sentence_transformers(bert, {"pooling_mode_max_tokens": True})
    with pytest.raises(InputError, match="pools by max"):
        open_encoder(str(bert))
    as_sentence_transformers(bert, {"pooling_mode": "mean", "include_prompt": False})
    with pytest.raises(InputError, match="include_prompt"):
        open_encoder(str(bert))


def test_a_bert_without_a_word_on_pooling_is_no_causal_model(bert):
    with pytest.raises(InputError, match="causal.*needs pooling mean or cls"):
        open_encoder(str(bert), device="cpu", dtype="float32")  # random weights say little in bfloat16


def test_the_first_state_of_a_causal_model_is_no_vector(tmp_path):
    model = save_base(tmp_path / "llama")
    with pytest.raises(InputError, match="pooling: the first state of .* knows nothing of a text"):
        open_encoder(model, settings={"pooling": "cls"}, device="cpu", dtype="float32")


def test_what_is_for_causal_models_alone_is_an_error(bert):
    with pytest.raises(InputError, match="lora: only for causal models"):
        open_encoder(str(bert), settings={"pooling": "mean"}, lora="somewhere")
