"""Scorers without a model, for processes of their own: they load them from here by name."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qpeft_rerank.errors import InputError, PairError
from qpeft_rerank.passages import Passage

Pairs = Sequence[tuple[str, Passage]]


class Lengths:
    """The longer the passage, the better. Some texts are orders."""

    weight, shared_pairs = 1.0, 800

    def __init__(self, device: str):
        self.device = device

    def describe(self) -> dict[str, Any]:
        return {"device": self.device}

    def begin(self, pairs: Pairs) -> Callable[..., np.ndarray]:
        for index, (_, passage) in enumerate(pairs):
            if passage.text == "too long":
                raise PairError("the passage is too long", index, tokens=9)

        def score(progress: Callable[[int], None] | None = None) -> np.ndarray:
            for _, passage in pairs:
                if passage.text == "end":
                    os._exit(3)
                if passage.text == "fault":
                    raise KeyError("a bug")
                if passage.text == "wait":
                    time.sleep(600)
                if progress is not None:
                    progress(1)
            scores = [os.getpid() if p.text == "who" else len(p.text) for _, p in pairs]
            return np.array(scores, dtype=np.float32)

        return score


def refused(device: str) -> Lengths:
    raise InputError(f"no model for {device}")
