"""Documents in the reranker's layout, packed into rows of token ids without padding.

The layout of a passage with its question, each part tokenised on its own::

    <s> prompt [hints: w w w \\n] \\nPassage:\\n passage [hints: w w w \\n] \\nQuestion:\\n query </s>

Half of the passages come with hints, words of the passage that mostly stand in the question too, because
the reranker's trained modules put vectors there. Several questions may follow one passage: more to learn from
each passage read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pretrain_data import BOS, EOS, PASSAGE_TOKENS, QUESTION_TOKENS, Records
from tokenizers import Tokenizer

from qpeft_rerank.models.config import PROMPT, AdapterConfig
from qpeft_rerank.models.inputs import HINTS_END, PASSAGE_HEADING, QUESTION_HEADING

# Too common to be worth a hint.
STOPWORDS = frozenset(
    """
    the and that with from this which were have their been they than when what where there these those
    other into more such also some only most over many between through after before about would
    could during because while for was are has had not but its his her who how why did does can may
    one two all any each was will you your
    """.split()
)


class Document(NamedTuple):
    """Ids of one document, and how much predicting each counts in the loss. Both have shape (length,)."""

    ids: np.ndarray
    weights: np.ndarray


class Layout:
    """The reranker's layout around given ids. Weights: question 2, passage 0.6, template near 0."""

    def __init__(self, tokenizer: Tokenizer):
        def encode(text: str) -> list[int]:
            return tokenizer.encode(text, add_special_tokens=False).ids

        self.bos, self.eos = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
        self.vocabulary = tokenizer.get_vocab_size()
        self.prompt = encode(PROMPT)
        self.passage, self.question = encode(PASSAGE_HEADING), encode(QUESTION_HEADING)
        self.hints, self.hints_end = encode(AdapterConfig().hint_prefix), encode(HINTS_END)
        words = [t for t, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
        self.is_word = np.array([bool(re.fullmatch(r"Ġ[A-Za-z]{3,}", t)) for t in words])
        self.is_hint = np.array(
            [bool(w) and t[1:].lower() not in STOPWORDS for t, w in zip(words, self.is_word, strict=True)]
        )
        # Words with the same first five letters, in any case, count as the same word.
        stems = {stem: n for n, stem in enumerate(sorted({t.lstrip("Ġ").lower()[:5] for t in words}))}
        self.stem = np.array([stems[t.lstrip("Ġ").lower()[:5]] for t in words])

    def document(
        self,
        passage: Sequence[int],
        questions: Sequence[Sequence[int]],
        hints: Sequence[int] = (),
        place: str = "prefix",
        prompt: bool = True,
        passage_weight: float = 0.6,
    ) -> Document:
        hint = [*self.hints, *hints, *self.hints_end] if len(hints) else []
        before, after = (hint, []) if place == "prefix" else ([], hint)
        parts = [
            ([self.bos], 0.0),
            (self.prompt if prompt else [], 0.05),
            (before, 0.0),
            (self.passage, 0.05),
            (passage[:PASSAGE_TOKENS], passage_weight),
            (after, 0.0),
        ]
        for question in questions:
            parts += [(self.question, 0.05), (question[:QUESTION_TOKENS], 2.0), ([self.eos], 2.0)]
        ids = np.concatenate([np.asarray(part, np.int64) for part, _ in parts])
        return Document(ids, np.concatenate([np.full(len(part), w, np.float32) for part, w in parts]))

    def plain(self, ids: Sequence[int]) -> Document:
        ids = np.asarray([self.bos, *ids], np.int64)
        return Document(ids, np.where(np.arange(len(ids)) > 0, 0.6, 0.0).astype(np.float32))


class Rows:
    """An endless stream of rows of ``length`` ids, filled to the last with documents and plain text."""

    def __init__(self, folder: Path, length: int, seed: int):
        self.layout, self.length = Layout(Tokenizer.from_file(str(folder / "tokenizer.json"))), length
        self.sets = {name: Records(folder, name) for name in ("pseudo", "real", "question")}
        self.rng = np.random.default_rng(seed)
        self.order = {name: self.rng.permutation(len(rows)) for name, rows in self.sets.items()}
        self.next = {name: 0 for name in self.sets}
        self.waiting: list[Document] = []

    def draw(self, name: str) -> list[np.ndarray]:
        """The next record of a set, in an order that is shuffled anew for each pass."""
        if self.next[name] == len(self.order[name]):
            self.order[name], self.next[name] = self.rng.permutation(len(self.order[name])), 0
        self.next[name] += 1
        return self.sets[name][self.order[name][self.next[name] - 1]]

    def hints(self, passage: np.ndarray, questions: Sequence[np.ndarray]) -> np.ndarray:
        """1 to 10 words of the passage, of which a share (0, half or nearly all) stand in the questions."""
        layout, rng = self.layout, self.rng
        words = rng.permutation(np.unique(passage[layout.is_hint[passage]]))
        asked = np.isin(layout.stem[words], layout.stem[np.concatenate(questions)])
        count, share = int(rng.integers(1, 11)), float(rng.choice([0.0, 0.5, 1.0, 1.0]))
        shared = words[asked][: int(np.ceil(count * share))]
        others = words[~asked][: int(rng.integers(0, 4)) if share == 1.0 else count - len(shared)]
        return rng.permutation(np.concatenate([shared, others]))

    def repeated(self, limit: int) -> Document:
        """Random ids twice (the second time counts), or as a passage with spans of it as questions."""
        rng, layout = self.rng, self.layout
        if rng.random() < 0.5:
            half = rng.integers(3, layout.vocabulary, int(rng.integers(6, min(96, limit // 2))))
            ids = np.concatenate([[layout.bos], half, half])
            return Document(ids, np.where(np.arange(len(ids)) > len(half), 1.0, 0.0).astype(np.float32))
        passage = rng.integers(3, layout.vocabulary, int(rng.integers(12, 120)))
        starts = rng.integers(0, len(passage) - 8, 4)
        questions = [passage[s : s + int(rng.integers(5, 14))] for s in starts]
        return layout.document(passage, questions, prompt=rng.random() < 0.8, passage_weight=0.0)

    def document(self, repeat: float) -> Document:
        rng = self.rng
        kind = rng.random()
        if kind < repeat:
            return self.repeated(self.length)
        kind = (kind - repeat) / (1 - repeat)
        if kind < 0.05:
            return self.layout.document(
                [], [self.draw("question")[0] for _ in range(2)], prompt=rng.random() < 0.5
            )
        name = "real" if kind < 0.55 else "pseudo"
        passage, *questions = self.draw(name)
        passage, questions = passage[:PASSAGE_TOKENS], [questions[i] for i in rng.permutation(len(questions))]
        if name == "pseudo" and rng.random() < 0.15:
            return self.layout.plain(passage)
        hinted, prompt = rng.random() < 0.5, rng.random() < 0.8
        # Several questions follow one passage: more to learn from each passage read. Hints are for one or
        # two.
        questions = questions[: int(rng.integers(1, 3)) if hinted else 4]
        hints = self.hints(passage, questions) if hinted and questions else ()
        place = "prefix" if rng.random() < 0.5 else "suffix"
        while True:
            document = self.layout.document(passage, questions, hints, place, prompt)
            if len(document.ids) <= self.length or not questions:
                return document
            questions = questions[:-1]

    def row(self, repeat: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids, weights and document numbers, each of shape (length,)."""
        taken: list[Document] = []
        room = self.length
        while True:
            while len(self.waiting) < 24:
                document = self.document(repeat)
                if len(document.ids) <= self.length:
                    self.waiting.append(document)
            fits = [i for i, d in enumerate(self.waiting) if len(d.ids) <= room]
            if not fits:
                break
            best = 0 if not taken else max(fits, key=lambda i: len(self.waiting[i].ids))
            taken.append(self.waiting.pop(best))
            room -= len(taken[-1].ids)
        while room:  # filled with the beginnings of plain passages
            taken.append(self.layout.plain(self.draw("pseudo")[0][: room - 1]))
            room -= len(taken[-1].ids)
        return pack(taken)

    def batch(self, size: int, repeat: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``size`` rows: three arrays of shape (size, length)."""
        return tuple(np.stack(part) for part in zip(*(self.row(repeat) for _ in range(size)), strict=True))


def pack(documents: Sequence[Document]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Documents one after the other: ids, weights, document numbers."""
    numbers = np.concatenate([np.full(len(d.ids), n) for n, d in enumerate(documents)])
    return np.concatenate([d.ids for d in documents]), np.concatenate([d.weights for d in documents]), numbers
