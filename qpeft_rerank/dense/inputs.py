"""Texts -> token ids for an encoder.

    [bos] prefix text            [eos]       RepLLaMA: prefix and text are tokenised as one string
    [bos] prefix | text | suffix marks       LLaRA: each part is tokenised by itself

The text is cut at its end; what follows it never is, since the vector is read there. A tokenizer without bos
or eos has none here. Special tokens written in a text are read as plain text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qpeft_rerank.dense.config import Side
from qpeft_rerank.errors import InputError
from qpeft_rerank.models.inputs import MOST_CHARACTERS_PER_TOKEN, tokenize


class SideInputs:
    """Turns the texts of one side (queries or passages) into token ids for a causal model.

    Args:
        tokenizer: a tokenizer of transformers.
        side: what goes around a text.
        context: longest sequence that the model takes, None if it sets no limit.

    Raises:
        InputError: the tokenizer does not know a mark, or nothing of a text would fit the model.
    """

    def __init__(self, tokenizer: Any, side: Side, context: int | None = None):
        self.tokenizer, self.side = tokenizer, side
        self.bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        self.apart = bool(side.suffix)
        prefix = self._ids([side.prefix if self.apart else side.prefix.rstrip()])[0]
        self.prefix = prefix if self.apart else []
        self.end = self._ids([side.suffix])[0] if side.suffix else []
        if side.marks:
            self.end += [self._mark(mark) for mark in side.marks]
        elif tokenizer.eos_token_id is not None:
            self.end.append(tokenizer.eos_token_id)
        self.limit = side.tokens
        if context is not None:
            self.limit = min(side.tokens, context - len(self.bos) - len(self.end))
        if self.limit - len(prefix) < 1:
            raise InputError(
                f"no token of a text fits beside its prefix and suffix: {side.tokens} tokens are allowed, "
                f"the model takes {context}"
            )

    @property
    def pooled(self) -> int:
        """How many of the last positions make the vector."""
        return len(self.side.marks) or 1

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text. Raises `InputError` for a text that has none at all."""
        heads = [text[: self.limit * MOST_CHARACTERS_PER_TOKEN] for text in texts]
        if self.apart:
            bodies = [(self.prefix + ids)[: self.limit] for ids in self._ids(heads)]
        else:
            bodies = [ids[: self.limit] for ids in self._ids([self.side.prefix + head for head in heads])]
        rows = [self.bos + body + self.end for body in bodies]
        for text, row in zip(texts, rows, strict=True):
            if not row:
                raise InputError(f"the text {text!r} has no token, and the tokenizer has no end token either")
        return rows

    def _ids(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        return tokenize(self.tokenizer, texts)["input_ids"]

    def _mark(self, mark: str) -> int:
        ids = self.tokenizer.convert_tokens_to_ids([mark])
        if ids[0] is None or ids[0] == self.tokenizer.unk_token_id:
            raise InputError(
                f"the tokenizer has no token {mark!r}: the model was not adapted with it (qpeft adapt)"
            )
        return ids[0]
