"""The layout of the published research code (github.com/zhiyuanpeng/Q-PEFT, commit 4c075c8), number for
number.

    <s> | prompt | hints | Passage: {passage} \\n Question: \\n | <s> query </s>        placement "prefix"
    <s> | prompt | Passage: {passage} \\n | hints | Question: \\n | <s> query </s>      placement "suffix"

It is made for Llama 2's tokenizer: the ids 1 and 2 are its <s> and </s>, the query's end is its pad, and the
cut of "suffix" is four ids. Kept apart because its rules are peculiar: a long input loses the front of its
passage, template ids can be hints, the stopword list sees only pieces inside words, a position predicted with
probability 1 drops out of the mean. The one thing not reproduced: where its filter leaves fewer than k tokens
it draws at random; here there are fewer hints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from qpeft_rerank.errors import InputError, PairError
from qpeft_rerank.models import hints
from qpeft_rerank.models.config import AdapterConfig
from qpeft_rerank.models.inputs import STOPWORDS, PairEncoder, PairInput, passage_text
from qpeft_rerank.models.selection import similarity

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from qpeft_rerank.passages import Passage

BOS, EOS = 1, 2
ROW_LENGTH = 300
SUFFIX_CUT = 4  # "Question", ":", blank, newline
LONGEST_LIST = 1000


class PublishedEncoder(PairEncoder):
    """(query, passage) -> `PairInput` by the published rules. ``passage`` of an input is its whole token
    row.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: AdapterConfig):
        if tokenizer("a")["input_ids"][:1] != [BOS]:  # its first id is cut everywhere
            raise InputError(
                "layout: 'published' is made for a tokenizer that puts <s>, id 1, in front of a text, "
                "as Llama 2's does; this one does not"
            )
        self.tokenizer, self.config = tokenizer, config
        self.bos, self.pad = [BOS], EOS
        self.prompt = self._ids(config.prompt)
        with_frame = config.has_hints and config.method != "token"
        self.hint_head = self._ids(config.hint_prefix) if with_frame else []
        self.hint_tail = self._ids("\n") if with_frame else []
        self.non_alphabetic, self.stopwords = blacklists(tokenizer)

    def encode(self, pairs: Sequence[tuple[str, Passage]]) -> list[PairInput]:
        return [
            self._encode(i, query, passage_text(passage, self.config.passage_format))
            for i, (query, passage) in enumerate(pairs)
        ]

    def _encode(self, index: int, query: str, passage: str) -> PairInput:
        fixed = f"{self.config.fixed_prompt} \n " if self.config.fixed_prompt else ""
        template, q = self._ids(f"{fixed}Passage: {passage} \n Question: \n"), self._ids(query)
        row = [*template, BOS, *q, EOS]
        if len(row) > ROW_LENGTH:
            row = row[:1] + row[1 - ROW_LENGTH :]
        scored = min(len(q) + 2, len(row))
        if self.config.has_hints and len(q) + 2 >= ROW_LENGTH:
            raise PairError(
                f"the query is too long: the published layout takes {ROW_LENGTH} tokens", index, len(q)
            )
        x, y = row[: len(row) - scored], row[len(row) - scored :]
        before = [BOS, *self.prompt]
        if self.config.placement == "suffix" and self.config.has_hints:
            before, x_after = before + x[:-SUFFIX_CUT], x[-SUFFIX_CUT:]
        else:
            x_after = x
        candidate = [self._visible(i, q) for i in x] + [False] * scored if self.config.has_hints else []
        return PairInput(before, x_after + y, scored, q, row, bytes(candidate), self._hint_slots(len(q)))

    def _visible(self, token: int, query: list[int]) -> bool:
        """Whether attention may look at a token; for the retrieval methods filters come after the ranking."""
        if self.config.method != "qpeft-a":
            return True
        return token not in (BOS, EOS) and not self._filtered(token, query)

    def _filtered(self, token: int, query: list[int]) -> bool:
        filters = self.config.filters
        return (
            ("query" in filters and token in query)
            or ("stopwords" in filters and token in self.stopwords)
            or ("non-alphabetic" in filters and token in self.non_alphabetic)
        )

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text)["input_ids"][1:] if text else []


def blacklists(tokenizer: PreTrainedTokenizerBase) -> tuple[frozenset[int], frozenset[int]]:
    """Ids without an ASCII letter in their piece, and ids whose lower-cased piece (without "_") is a
    stopword.
    """
    pieces = tokenizer.get_vocab().items()
    letterless = frozenset(i for piece, i in pieces if not any(c.isascii() and c.isalpha() for c in piece))
    return letterless, frozenset(i for piece, i in pieces if piece.lower().replace("_", "") in STOPWORDS)


class PublishedSelectedHints(hints.SelectedHints):
    """Retrieval modes 3 (``qpeft-r``), 2 (``vocab``) and 1 (``token``)."""

    letterless: frozenset[int] = frozenset()
    stopwords: frozenset[int] = frozenset()

    def pick(self, pairs: hints.Pairs) -> tuple[Tensor, Tensor]:
        query, config = self.table(pairs.query_ids), self.config
        if config.method == "token":
            near = (
                similarity(query, self.table.weight, config.similarity)
                .topk(config.k + 1, dim=2)
                .indices[:, :, 1:]
            )
            return near.transpose(1, 2).flatten(1), pairs.query_mask.repeat(1, config.k)
        candidates = self.table.weight if config.method == "vocab" else self.base_vectors(pairs.passage_ids)
        scores = (
            torch.sigmoid(similarity(query, candidates, config.similarity)) * pairs.query_mask[:, :, None]
        )
        if config.method == "qpeft-r":
            scores = scores * pairs.candidate[:, None, :]
        picks = []
        for row, query_ids in zip(scores, pairs.query_ids.tolist(), strict=True):
            best = row.flatten().topk(min(LONGEST_LIST, row.numel())).indices % row.shape[1]
            ids = best if config.method == "vocab" else pairs.passage_ids[len(picks)][best]
            picks.append(self.choose(ids.tolist(), query_ids))
        ids = torch.tensor([p + [EOS] * (config.k - len(p)) for p in picks], device=query.device)
        count = torch.tensor([len(p) for p in picks], device=query.device)
        return ids, torch.arange(config.k, device=query.device) < count[:, None]

    def choose(self, ranked: list[int], query_ids: list[int]) -> list[int]:
        """The first k of `filter_ids`; of the unfiltered list if nothing is left."""
        return (self.filter_ids(ranked, query_ids) or ranked)[: self.config.k]

    def filter_ids(self, ranked: list[int], query_ids: list[int]) -> list[int]:
        """The published filter, in its order. ``query_ids`` is padded: its length counts in mode 2."""
        filters, ids = self.config.filters, ranked
        if self.config.method == "vocab" and "query" in filters:
            ids = ids[len(query_ids) :]
        if "duplicates" in filters:
            ids = list(dict.fromkeys(ids))
        dropped = {BOS, EOS}
        if self.config.method == "qpeft-r" and "query" in filters:
            dropped |= set(query_ids)
        if "stopwords" in filters:
            dropped |= self.stopwords
        if "non-alphabetic" in filters:
            dropped |= self.letterless
        return [i for i in ids if i not in dropped]


def make_hint_block(
    config: AdapterConfig, base: nn.Embedding, encoder: PublishedEncoder
) -> hints.HintBlock | None:
    """The hint module that the settings name, with the published selection."""
    if not config.has_hints:
        return None
    if config.hint_table == "frozen" and config.hint_layers:
        raise InputError("hint_layers: the published layout has no MLP on a frozen hint table")
    if config.method == "qpeft-a":
        return hints.AttendedHints(config, base, encoder.hint_head, encoder.hint_tail)
    block = PublishedSelectedHints(config, base, encoder.hint_head, encoder.hint_tail)
    block.letterless, block.stopwords = encoder.non_alphabetic, encoder.stopwords
    return block
