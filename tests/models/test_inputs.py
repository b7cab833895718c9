"""Texts become ids by the documented layout: only the passage is ever cut, special tokens are plain text."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny_models import TEXTS, byte_tokenizer, metaspace_tokenizer, tiny_base, tiny_scorer
from transformers import PreTrainedTokenizerFast

from qpeft_rerank.errors import InputError, PairError
from qpeft_rerank.models.batch import collate
from qpeft_rerank.models.config import LIKELIHOOD_METHODS, AdapterConfig
from qpeft_rerank.models.inputs import (
    PairEncoder,
    PairInput,
    TokenizedPassage,
    describe_tokens,
    passage_text,
    vocabulary_candidates,
)
from qpeft_rerank.passages import Passage

TOKENIZERS = {"byte level": byte_tokenizer(), "metaspace": metaspace_tokenizer()}
LONG = Passage("long", "Title", " ".join(TEXTS) * 3)


def encoder(
    tokenizer: PreTrainedTokenizerFast | None = None, context: int | None = None, **settings: object
) -> PairEncoder:
    return PairEncoder(
        tokenizer or byte_tokenizer(), AdapterConfig(**{"method": "qpeft-r", **settings}), context
    )


def encode(query: str, passage: str | Passage, *arguments: object, **settings: object) -> PairInput:
    passage = passage if isinstance(passage, Passage) else Passage("d", "", passage)
    return encoder(*arguments, **settings).encode([(query, passage)])[0]


def described(tokenizer: PreTrainedTokenizerFast, text: str) -> TokenizedPassage:
    return encoder(tokenizer)._tokenize_passages([text])[0]


def test_the_layout_is_the_documented_one() -> None:
    tokenizer = byte_tokenizer()
    for placement, (before, after) in {
        "prefix": ("<s>Read.", "\nPassage:\nsalt\nQuestion:\nhow far</s>"),
        "suffix": ("<s>Read.\nPassage:\nsalt", "\nQuestion:\nhow far</s>"),
    }.items():
        pair = encode("how far", "salt", prompt="Read.", placement=placement)
        assert tokenizer.decode(pair.before) == before and tokenizer.decode(pair.after) == after
        assert tokenizer.decode(pair.after[-pair.scored :]) == "how far</s>"
        assert pair.length == len(pair.before) + pair.hint_slots + len(pair.after)


def test_threads_may_share_it() -> None:
    shared = PairEncoder(byte_tokenizer(), AdapterConfig(method="qpeft-r"), remember=2)
    pairs = [(text, Passage(str(i), "", text)) for i, text in enumerate(TEXTS)]
    expected = shared.encode(pairs)
    with ThreadPoolExecutor(4) as pool:
        assert all(found == expected for found in pool.map(lambda _: shared.encode(pairs), range(40)))


def test_segments_are_tokenised_apart() -> None:
    pair = encode("of the", "roads of", method="hard-prompt", prompt="Read", placement="prefix")
    ids = [
        i
        for text in ("Read", "\nPassage:\n", "roads of", "\nQuestion:\n", "of the")
        for i in byte_tokenizer()(text, add_special_tokens=False)["input_ids"]
    ]
    assert pair.before + pair.after == [byte_tokenizer().bos_token_id, *ids, byte_tokenizer().eos_token_id]


def test_a_tokenizer_without_bos_or_eos_gets_none() -> None:
    pair = encode("far", "salt", byte_tokenizer(None, None), prompt="Read.")
    assert byte_tokenizer().decode(pair.before + pair.after) == "Read.\nPassage:\nsalt\nQuestion:\nfar"
    assert pair.scored == len(pair.query)


def test_passage_is_title_blank_text_or_a_published_form() -> None:
    passage, untitled = Passage("d", "Salt", "was traded"), Passage("d", "", "was traded")
    assert (
        passage_text(passage, "title text") == "Salt was traded"
        and passage_text(untitled, "title text") == "was traded"
    )
    assert (
        passage_text(passage, "text+title") == "was tradedSalt"
        and passage_text(passage, "title+text") == "Saltwas traded"
    )


@pytest.mark.parametrize("name", TOKENIZERS)
def test_special_tokens_in_a_text_are_plain_text(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    for text in ("<s>", "</s>", "a</s>b", "<unk>", "<|endoftext|>", "<pad>"):
        pair = encode(text, text, tokenizer, method="hard-prompt", prompt=text)
        written = pair.before[1:] + pair.after[:-1]  # but our own bos and eos
        assert not set(written) & set(tokenizer.all_special_ids)
        assert tokenizer.decode(pair.query) == text


@pytest.mark.parametrize("name", TOKENIZERS)
def test_any_text_gives_a_finite_score(name: str) -> None:
    texts = [
        "",
        " ",
        "\n\n",
        "\x00\x01\x1f\x7f",
        "🦙🏳️‍🌈",
        "naïve café",
        "東京の塔",
        "مرحبا",
        "\u200b\ufeff",
        "a" * 90,
        "<s>" * 9,
        "half a pair \ud83e",
        "e\u0301\u0301\u0301",
    ]
    base = tiny_base(tokenizer=TOKENIZERS[name])
    for method in LIKELIHOOD_METHODS:
        scorer = tiny_scorer(base, method, k=2)
        pairs = [(text, Passage("d", title, text)) for text in texts for title in ("", text)]
        with torch.inference_mode():
            assert scorer(collate(scorer.encoder.encode(pairs))).isfinite().all(), method


def test_a_passage_is_cut_from_its_end_and_nothing_else_is() -> None:
    whole = encode("how far", LONG, placement="prefix", passage_tokens=10_000)
    for cut in (
        encode("how far", LONG, placement="prefix", passage_tokens=20),
        encode("how far", LONG, byte_tokenizer(), whole.length - len(whole.passage) + 20, placement="prefix"),
    ):
        assert cut.passage == whole.passage[:20] and len(cut.candidate) == 20
        heading = len(cut.after) - 20 - len(encoder().question_heading) - cut.scored
        assert cut.before == whole.before and cut.query == whole.query and cut.hint_slots == whole.hint_slots
        assert cut.after[:heading] == whole.after[:heading]
        assert cut.after[heading + 20 :] == whole.after[heading + len(whole.passage) :]


@pytest.mark.parametrize(
    ("architecture", "positions"), [("gpt2", "n_positions"), ("opt", "max_position_embeddings")]
)
def test_a_model_with_64_positions_is_never_overrun(architecture: str, positions: str) -> None:
    base = tiny_base(architecture, **{positions: 64})
    assert base.context == 64
    for method in LIKELIHOOD_METHODS:
        for placement in ("prefix", "suffix"):
            scorer = tiny_scorer(base, method, k=2, prompt="hints", placement=placement)
            inputs = scorer.encoder.encode(
                [("how far", LONG), ("far", LONG), ("how far", Passage("d", "", "salt"))]
            )
            assert [one.length == 64 for one in inputs] == [True, True, False]
            assert scorer(collate(inputs)).isfinite().all()


def test_a_query_that_does_not_fit_is_an_error_with_its_length() -> None:
    shortest = encode("how far", "", context=None).length
    assert encode("how far", LONG, byte_tokenizer(), shortest).passage == []
    with pytest.raises(PairError, match="query is too long") as error:
        encoder(byte_tokenizer(), shortest - 1).encode([("how", LONG), ("how far", LONG)])
    assert error.value.index == 1 and error.value.tokens == shortest


def test_an_empty_query_is_scored_by_its_end_or_is_an_error() -> None:
    assert encode("", "salt").scored == 1
    with pytest.raises(PairError, match="empty query"):
        encode("", "salt", byte_tokenizer(eos=None))


def test_a_document_of_a_megabyte_is_quick() -> None:
    for tokenizer in TOKENIZERS.values():
        for text in (" ".join(TEXTS) * 2000, "a" * 1_000_000, " " * 1_000_000):
            start = time.perf_counter()
            assert 0 < len(encode("how far", text, tokenizer).passage) <= 300
            assert time.perf_counter() - start < 2


def test_a_text_is_tokenised_once() -> None:
    counting = encoder()
    calls: list[list[str]] = []
    tokenizer = counting.tokenizer
    counting.tokenizer = lambda texts, **options: (calls.append(list(texts)), tokenizer(texts, **options))[1]
    counting.encode([("far", LONG), ("how", LONG), ("far", LONG)])
    counting.encode([("far", LONG)])
    assert [len(texts) for texts in calls] == [2, 1]


def test_the_oldest_texts_are_forgotten() -> None:
    forgetful = PairEncoder(byte_tokenizer(), AdapterConfig(method="qpeft-r"), remember=2)
    pairs = [(f"query {i}", Passage("d", "", f"passage {i}")) for i in range(5)]
    assert (
        forgetful.encode(pairs) == encoder().encode(pairs)
        and len(forgetful._passages) == len(forgetful._queries) == 2
    )


@pytest.mark.parametrize("name", TOKENIZERS)
def test_stopwords_are_words_of_the_text_not_pieces(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    text = "The other, therefore THE end of it's café 東京 42 the_end at"
    ids, stopword, _ = described(tokenizer, text)
    pieces: dict[bool, str] = {True: "", False: ""}
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    last = -1
    for (start, end), stop in zip(offsets, stopword, strict=True):
        if start != last:  # the bytes of one character share their place
            pieces[stop] += text[start:end]
        last = start
    assert pieces[True].replace(" ", "") == "TheTHEofitsat", (
        "it, s and the are words; other, therefore, the_end are not"
    )
    assert "therefore" in pieces[False] and "the_end" in pieces[False] and "café" in pieces[False]


def test_the_beginning_of_a_word_that_is_cut_is_no_stopword() -> None:
    offsets = [(0, 2), (2, 11), (11, 14)]
    assert describe_tokens("information in", [5, 6, 7], offsets).stopword == [False, False, True]
    assert describe_tokens("information in", [5], offsets[:1]).stopword == [False], "in|formation"


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_token_is_alphabetic_if_it_has_a_letter_of_any_script(name: str) -> None:
    for text, letters in (
        ("salt", True),
        ("東京", True),
        ("é", True),
        ("Москва", True),
        ("1846", False),
        ("?!", False),
        ("🦙", False),
        ("   ", False),
        ("…", False),
    ):
        ids, _, non_alphabetic = described(TOKENIZERS[name], text)
        blanks = [
            tokenizer_gives_blank(TOKENIZERS[name], i) for i in ids
        ]  # "▁" of its own in front of what it does not know
        assert {
            not n for n, blank in zip(non_alphabetic, blanks, strict=True) if letters is False or not blank
        } == {letters}, text


def tokenizer_gives_blank(tokenizer: PreTrainedTokenizerFast, token: int) -> bool:
    return tokenizer.convert_ids_to_tokens(token) in ("▁", "Ġ")


def test_filters_say_what_can_be_a_hint() -> None:
    def left(*filters: str) -> str:
        pair = encode("how far", "The bees, how far?", filters=filters)
        return byte_tokenizer().decode(
            [i for i, allowed in zip(pair.passage, pair.candidate, strict=True) if allowed]
        )

    assert left() == "The bees, how far?" and left("stopwords") == " bees, how far?"
    assert left("non-alphabetic") == "The bees how far"
    assert "far" not in left("query") and "bees" in left("query")


def test_the_vocabulary_for_hints_leaves_out_special_and_filtered_ids() -> None:
    tokenizer = byte_tokenizer()
    pieces = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    every = vocabulary_candidates(tokenizer, (), len(tokenizer) + 5)
    assert [i for i, allowed in enumerate(every) if not allowed] == [
        *sorted(tokenizer.all_special_ids),
        *range(len(tokenizer), len(tokenizer) + 5),
    ]
    some = vocabulary_candidates(tokenizer, ("stopwords", "non-alphabetic"), len(tokenizer))
    for piece, allowed in zip(pieces, some, strict=True):
        if piece.strip() in ("the", "of", "?", "1"):
            assert not allowed
        elif piece.strip() in ("hints", "salt", "bees"):
            assert allowed


def test_a_tokenizer_without_word_borders_is_refused() -> None:
    class Slow:
        is_fast, name_or_path = False, "slow"

    with pytest.raises(InputError, match="slow"):
        encoder(Slow())


def test_pairs_of_a_passage_share_what_does_not_depend_on_the_query() -> None:
    passage, other = Passage("1", "Salt", "salt melts ice"), Passage("2", "", "sugar is sweet")
    asked = [("why far", passage), ("why far", other), ("what melts", passage)]
    pairs = encoder(filters=("stopwords",)).encode(asked)
    assert pairs[0].before is pairs[2].before is not pairs[1].before
    assert pairs[0].candidate is pairs[2].candidate
    filtered = encoder(filters=("stopwords", "query")).encode(asked)
    assert filtered[0].before is filtered[2].before
    assert sum(filtered[2].candidate) < sum(pairs[2].candidate)


def test_the_published_layout_is_for_tokenizers_that_begin_a_text_as_llamas_does() -> None:
    with pytest.raises(InputError, match="layout: 'published' is made for a tokenizer that puts <s>, id 1"):
        tiny_scorer(tiny_base(), "hard-prompt", layout="published")
