"""(query, passage) -> token ids, in our own layout.

    [bos] prompt [hints] "\\nPassage:\\n" passage         "\\nQuestion:\\n" query [eos]   placement "prefix"
    [bos] prompt         "\\nPassage:\\n" passage [hints] "\\nQuestion:\\n" query [eos]   placement "suffix"

Each segment is tokenised by itself and the ids are joined, so that no token crosses a border and a cut of the
passage can touch nothing else. Special tokens written in a text are read as plain text. A tokenizer without
bos or eos has none here.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from qpeft_rerank.errors import InputError, PairError
from qpeft_rerank.models.config import AdapterConfig

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

    from qpeft_rerank.passages import Passage

PASSAGE_HEADING, QUESTION_HEADING, HINTS_END = "\nPassage:\n", "\nQuestion:\n", "\n"

# The published code's 35 words (Lucene's list and "s", "t", "on", "www"), matched here against whole
# words of the text.
STOPWORDS = frozenset(
    "a and are as at be but by for if in into is it no not of on or s such t that the their then there "
    "these they this to was will with www".split()
)
MOST_CHARACTERS_PER_TOKEN = 100  # the mean is 4 to 5; only pages of blanks or rules come near
_WORD = re.compile(r"\w+")


class TokenizedPassage(NamedTuple):
    """The ids of a passage's text (cut to length) and, per id, whether its word is a stopword / has no
    letter.
    """

    ids: list[int]
    stopword: list[bool]
    non_alphabetic: list[bool]


@dataclass(frozen=True, slots=True)
class PairInput:
    """One (query, passage) pair ready for a batch.

    The sequence is ``before`` + ``hint_slots`` hint vectors + ``after``; the last ``scored`` ids of ``after``
    are those whose likelihood is the score. ``query`` and ``passage`` are the ids hints are made from,
    ``candidate`` has a 1 for each passage id that may become a hint, else a 0. Pairs of one passage share
    what they can: thousands are held at a time.
    """

    before: list[int]
    after: list[int]
    scored: int
    query: list[int]
    passage: list[int]
    candidate: bytes
    hint_slots: int

    @property
    def length(self) -> int:
        """Positions that the pair takes in the model, hints included."""
        return len(self.before) + self.hint_slots + len(self.after)


def passage_text(passage: Passage, passage_format: str) -> str:
    """Title and text as one string (see `config.PASSAGE_FORMATS`); a passage without a title is its text."""
    if passage_format == "title text":
        return f"{passage.title} {passage.text}" if passage.title else passage.text
    return passage.text + passage.title if passage_format == "text+title" else passage.title + passage.text


class PairEncoder:
    """Turns (query, passage) pairs into `PairInput`s. Each text is tokenised once and kept (least recently
    used go). May be used from several threads.

    Args:
        tokenizer: a fast tokenizer of transformers.
        config: the adapter's settings.
        context: longest sequence that the model takes, None if it sets no limit.
        remember: how many tokenised queries, and how many passages, are kept.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        config: AdapterConfig,
        context: int | None = None,
        remember: int = 10_000,
    ):
        if not tokenizer.is_fast:
            raise InputError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no fast version: word borders need it"
            )
        self.tokenizer, self.config, self.context, self.remember = tokenizer, config, context, remember
        self.bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        self.eos = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        self.prompt = self._ids(config.prompt)
        self.passage_heading, self.question_heading = self._ids(PASSAGE_HEADING), self._ids(QUESTION_HEADING)
        self.hint_head = self._ids(config.hint_prefix) if config.has_hints else []
        self.hint_tail = self._ids(HINTS_END) if config.has_hints else []
        self._queries: OrderedDict[str, list[int]] = OrderedDict()
        self._passages: OrderedDict[str, TokenizedPassage] = OrderedDict()
        self._lock = Lock()  # on both, and on the tokenizer, whose settings change with a call

    pad = 0  # any id: what stands at padding is never seen

    @property
    def prompt_start(self) -> int:
        """Position of the prompt's first id."""
        return len(self.bos)

    def encode(self, pairs: Sequence[tuple[str, Passage]]) -> list[PairInput]:
        """Pairs to inputs, in order.

        Raises:
            PairError: a pair does not fit the model's context even with an empty passage, or has nothing to
                score.
        """
        given = {id(passage): passage for _, passage in pairs}
        texts = {key: passage_text(passage, self.config.passage_format) for key, passage in given.items()}
        with self._lock:
            queries = self._tokenize_queries([query for query, _ in pairs])
            passages = self._tokenize_passages([texts[id(passage)] for _, passage in pairs])
        different = {id(passage): passage for passage in passages}
        of_passage = {key: self._of_passage(passage) for key, passage in different.items()}
        return [
            self._join(index, query, passage, *of_passage[id(passage)])
            for index, (query, passage) in enumerate(zip(queries, passages, strict=True))
        ]

    def _of_passage(self, passage: TokenizedPassage) -> tuple[list[int], bytes]:
        """What all pairs of a passage share: the ids down to its last, and which of its own may be hints."""
        before = self.bos + self.prompt + self.passage_heading + passage.ids
        if not self.config.has_hints:
            return before, b""
        allowed = [True] * len(passage.ids)
        for name, filtered in (("stopwords", passage.stopword), ("non-alphabetic", passage.non_alphabetic)):
            if name in self.config.filters:
                allowed = [a and not f for a, f in zip(allowed, filtered, strict=True)]
        return before, bytes(allowed)

    def _join(
        self, index: int, query: list[int], passage: TokenizedPassage, before: list[int], candidate: bytes
    ) -> PairInput:
        scored = query + self.eos
        if not scored:
            raise PairError("an empty query has no likelihood (the tokenizer has no end token either)", index)
        slots = self._hint_slots(len(query))
        fixed = len(before) - len(passage.ids) + slots + len(self.question_heading) + len(scored)
        ids = passage.ids
        if self.context is not None and fixed + len(ids) > self.context:
            room = self.context - fixed
            if room < 0:
                raise PairError(f"the query is too long: the model takes {self.context} tokens", index, fixed)
            before, ids, candidate = before[: len(before) - len(ids) + room], ids[:room], candidate[:room]
        after = self.question_heading + scored
        if self.config.placement == "prefix":
            front = len(self.bos) + len(self.prompt)
            before, after = before[:front], before[front:] + after
        if "query" in self.config.filters and candidate and not (in_query := set(query)).isdisjoint(ids):
            candidate = bytes(a and i not in in_query for a, i in zip(candidate, ids, strict=True))
        return PairInput(before, after, len(scored), query, ids, candidate, slots)

    def _hint_slots(self, query_length: int) -> int:
        if not self.config.has_hints:
            return 0
        hints = {"qpeft-a": query_length, "token": query_length * self.config.k}.get(
            self.config.method, self.config.k
        )
        return len(self.hint_head) + hints + len(self.hint_tail)

    def _ids(self, text: str) -> list[int]:
        return tokenize(self.tokenizer, [text])["input_ids"][0]

    def _tokenize_queries(self, texts: list[str]) -> list[list[int]]:
        new = [t for t in dict.fromkeys(texts) if t not in self._queries]
        if new:
            self._queries.update(zip(new, tokenize(self.tokenizer, new)["input_ids"], strict=True))
        for text in texts:
            self._queries.move_to_end(text)
        result = [self._queries[t] for t in texts]
        _forget(self._queries, self.remember)
        return result

    def _tokenize_passages(self, texts: list[str]) -> list[TokenizedPassage]:
        new = [t for t in dict.fromkeys(texts) if t not in self._passages]
        if new:
            # A document may be megabytes long: cut its characters generously first, then its tokens exactly.
            length = self.config.passage_tokens
            heads = [text[: length * MOST_CHARACTERS_PER_TOKEN] for text in new]
            encoded = tokenize(self.tokenizer, heads, return_offsets_mapping=True)
            for text, ids, offsets in zip(new, encoded["input_ids"], encoded["offset_mapping"], strict=True):
                self._passages[text] = describe_tokens(text, ids[:length], offsets[:length])
        for text in texts:
            self._passages.move_to_end(text)
        result = [self._passages[t] for t in texts]
        _forget(self._passages, self.remember)
        return result


def vocabulary_candidates(
    tokenizer: PreTrainedTokenizerBase, filters: Sequence[str], size: int
) -> list[bool]:
    """For the ablations that pick from the whole vocabulary: which of ``size`` ids the filters allow; never
    special ids.
    """
    allowed = [False] * size
    special = set(tokenizer.all_special_ids)
    for token, piece in enumerate(tokenizer.batch_decode([[i] for i in range(min(size, len(tokenizer)))])):
        word = piece.strip()
        allowed[token] = not (
            token in special
            or ("stopwords" in filters and word.lower() in STOPWORDS)
            or ("non-alphabetic" in filters and not any(c.isalpha() for c in word))
        )
    return allowed


def describe_tokens(text: str, ids: list[int], offsets: list[tuple[int, int]]) -> TokenizedPassage:
    """Say of each token whether the word it belongs to is a stopword, and whether its own characters hold no
    letter.

    Works on words of the text, found through the tokens' offsets, and so for any vocabulary and any script.
    """
    stop_characters = bytearray(len(text) + 1)
    end = offsets[-1][1] if offsets else 0
    for word in _WORD.finditer(text):  # not of ``text[:end]``: a word cut there may begin like a stopword
        if word.start() >= end:
            break
        if word.group().lower() in STOPWORDS:
            stop_characters[word.start() : word.end()] = b"\1" * (word.end() - word.start())
    stopword, non_alphabetic = [], []
    for start, end in offsets:
        characters = text[start:end]
        first = start + len(characters) - len(characters.lstrip())
        stopword.append(first < end and bool(stop_characters[first]))
        non_alphabetic.append(not any(c.isalpha() for c in characters))
    return TokenizedPassage(ids, stopword, non_alphabetic)


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], **options: bool) -> BatchEncoding:
    """The ids of texts as they are: special tokens are neither added nor read. Nothing is cut."""
    # Not verbose: it would warn of long texts, which are cut by those who ask.
    return tokenizer(
        encodable(texts), add_special_tokens=False, split_special_tokens=True, verbose=False, **options
    )


def encodable(texts: Sequence[str]) -> list[str]:
    """Halves of surrogate pairs, which JSON may hold and no tokenizer takes, become question marks."""
    return [text.encode(errors="replace").decode() for text in texts]


def _forget(cache: OrderedDict, size: int) -> None:
    while len(cache) > size:
        cache.popitem(last=False)
