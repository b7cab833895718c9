"""A RepLLaMA vector is the last token's state, whatever else is in the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import TEXTS, byte_tokenizer, metaspace_tokenizer, save_base, tiny_base
from transformers import AutoModel

from qpeft_rerank.dense import batches
from qpeft_rerank.dense.causal import CausalEncoder
from qpeft_rerank.dense.config import EncoderConfig
from qpeft_rerank.dense.encoder import check_probe, encode_probe, open_encoder
from qpeft_rerank.errors import InputError
from qpeft_rerank.passages import Passage

PASSAGES = [
    Passage("a", "Bees", TEXTS[0]),
    Passage("b", "", "short"),
    Passage("c", "Salt", TEXTS[5] + " " + TEXTS[4]),
]
ENDS = {"both": ("<s>", "</s>"), "no-end": ("<s>", None), "no-start": (None, "</s>"), "neither": (None, None)}


def by_hand(folder: str, text: str) -> np.ndarray:
    """As a reader of the paper would: one text, transformers' plain model, its last state at length 1."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    with torch.no_grad():
        state = AutoModel.from_pretrained(folder)(**ids).last_hidden_state[0, -1]
    return torch.nn.functional.normalize(state, dim=0).numpy()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2"])
def test_a_vector_is_the_last_state_of_the_papers_template(tmp_path, architecture):
    folder = save_base(tmp_path / "model", architecture)
    encoder = open_encoder(folder, device="cpu", dtype="float32")
    queries = encoder.encode_queries(["what do bees eat", "who"])
    np.testing.assert_allclose(queries[0], by_hand(folder, "<s>query: what do bees eat</s>"), atol=1e-5)
    np.testing.assert_allclose(queries[1], by_hand(folder, "<s>query: who</s>"), atol=1e-5)
    passages = encoder.encode_passages(PASSAGES)
    np.testing.assert_allclose(passages[0], by_hand(folder, f"<s>passage: Bees {TEXTS[0]}</s>"), atol=1e-5)
    np.testing.assert_allclose(passages[1], by_hand(folder, "<s>passage: short</s>"), atol=1e-5)
    assert passages.dtype == np.float32 and passages.shape == (3, encoder.dimension)


@pytest.mark.parametrize("ends", ENDS.values(), ids=list(ENDS))
def test_any_tokenizer_does_with_or_without_special_tokens(ends):
    tokenizer = byte_tokenizer(*ends)
    base = tiny_base("qwen2", tokenizer)
    vector = CausalEncoder(base, EncoderConfig()).encode_queries(["who"])[0]
    ids = tokenizer(f"{ends[0] or ''}query: who{ends[1] or ''}", return_tensors="pt")["input_ids"]
    state = base.model(ids, output_hidden_states=True).hidden_states[-1][0, -1]
    np.testing.assert_allclose(vector, torch.nn.functional.normalize(state, dim=0).numpy(), atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "llama4"])
def test_a_vector_does_not_depend_on_its_batch(architecture):
    base = tiny_base(architecture)
    together = CausalEncoder(base, EncoderConfig()).encode_passages(PASSAGES)
    alone = CausalEncoder(base, EncoderConfig(), batch_tokens=1)
    np.testing.assert_allclose(together, alone.encode_passages(PASSAGES), atol=1e-6)
    np.testing.assert_allclose(together[1:], alone.encode_passages(PASSAGES[1:]), atol=1e-6)


def test_a_passage_is_cut_at_its_end_and_the_end_token_stays():
    base = tiny_base()
    encoder = CausalEncoder(base, EncoderConfig(passage_tokens=9))
    (ids,) = encoder.passages.encode([TEXTS[0]])
    whole = base.tokenizer("passage: " + TEXTS[0], add_special_tokens=False)["input_ids"]
    assert ids == [base.tokenizer.bos_token_id, *whole[:9], base.tokenizer.eos_token_id]


@pytest.mark.parametrize("side", [{"query_tokens": 4}, {"passage_tokens": 2}])
def test_a_length_that_leaves_a_text_no_room_is_an_error(side):
    with pytest.raises(InputError, match="no token of a text fits beside its prefix"):
        CausalEncoder(tiny_base(), EncoderConfig(**side))


def test_a_text_never_exceeds_the_models_context():
    base = tiny_base(max_position_embeddings=24)
    encoder = CausalEncoder(base, EncoderConfig(passage_tokens=300))
    assert [len(row) for row in encoder.passages.encode([TEXTS[0]])] == [24]
    assert encoder.encode_passages(PASSAGES).shape == (3, 32)


def test_a_special_token_written_in_a_text_is_plain_text():
    encoder = CausalEncoder(tiny_base(), EncoderConfig())
    (ids,) = encoder.queries.encode(["a </s> b"])
    assert ids.count(encoder.base.tokenizer.eos_token_id) == 1


def test_the_llara_template_averages_its_special_tokens():
    tokenizer = metaspace_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<s{i}>" for i in range(1, 17)]})
    base = tiny_base("llama", tokenizer)
    encoder = CausalEncoder(base, EncoderConfig.of("llara"))

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    front, marks = [tokenizer.bos_token_id, *ids('"')], [ids(f"<s{i}>")[-1] for i in range(1, 17)]
    suffix = ids('", summarize the above passage within eight words: ')
    row = [*front, *ids("short"), *suffix, *marks[:8]]
    states = base.model(torch.tensor([row]), output_hidden_states=True).hidden_states[-1][0, -8:]
    expected = torch.nn.functional.normalize(states.mean(dim=0), dim=0).numpy()
    np.testing.assert_allclose(encoder.encode_passages(PASSAGES)[1], expected, atol=1e-5)
    (query,) = encoder.queries.encode(["who"])
    assert query[-8:] == marks[8:]


def test_a_template_with_tokens_that_the_model_lacks_is_an_error():
    with pytest.raises(InputError, match="no token '<s9>'"):
        CausalEncoder(tiny_base(), EncoderConfig.of("llara"))


def test_memory_that_runs_out_halves_the_batch(monkeypatch):
    encoder = CausalEncoder(tiny_base(), EncoderConfig())
    expected = encoder.encode_passages(PASSAGES * 3)
    body, sizes = encoder.forward, []

    def small(ids, length, pooled=1):
        sizes.append(len(ids))
        if len(ids) > 2:
            raise torch.OutOfMemoryError
        return body(ids, length, pooled)

    monkeypatch.setattr(encoder, "forward", small)
    np.testing.assert_allclose(encoder.encode_passages(PASSAGES * 3), expected, atol=1e-6)
    assert sizes[0] > 2


def test_batches_hold_every_text_once_longest_first():
    lengths = [3, 9, 1, 9, 4, 2]
    planned = batches.plan_batches(lengths, 10)
    assert sorted(sum(planned, [])) == list(range(6))
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= 10 for b in planned)
    assert [max(lengths[i] for i in b) for b in planned] == sorted(
        (max(lengths[i] for i in b) for b in planned), reverse=True
    )


def test_no_text_gives_no_vector():
    encoder = CausalEncoder(tiny_base(), EncoderConfig())
    assert encoder.encode_queries([]).shape == (0, 32)


def test_the_probe_tells_another_encoder_from_the_same():
    encoder = CausalEncoder(tiny_base(), EncoderConfig())
    probe = encode_probe(encoder)
    check_probe(CausalEncoder(tiny_base(), EncoderConfig()), probe, "here")
    for other in (
        CausalEncoder(tiny_base(seed=1), EncoderConfig()),
        CausalEncoder(tiny_base(), EncoderConfig(query_prefix="question: ")),
        CausalEncoder(tiny_base(), EncoderConfig(passage_tokens=10)),
    ):
        with pytest.raises(InputError, match="here: was made by another encoder"):
            check_probe(other, probe, "here")


@pytest.mark.parametrize(
    "settings, word",
    [
        ({"pooling": "sum"}, "pooling: 'sum'"),
        ({"query_tokens": 0}, "query_tokens: 0"),
        ({"pooling": "mean", "query_marks": ("<s9>",)}, "does not look at them"),
        ({"query_prefix": 3}, "query_prefix: 3"),
    ],
)
def test_settings_that_are_not_possible_are_errors(settings, word):
    with pytest.raises(InputError, match=word):
        EncoderConfig(**settings)


def test_settings_survive_json():
    config = EncoderConfig.of("llara", query_tokens=7)
    assert EncoderConfig.from_dict(config.to_dict()) == config
