"""What all models in training share: a base model under them, and at most one LoRA in it."""

from __future__ import annotations

from typing import Self

from torch import nn

from qpeft_rerank.models.base import BaseModel
from qpeft_rerank.models.lora import Lora


class OnBaseModel(nn.Module):
    """A module on a base model: rerankers, RepLLaMA, LLaRA.

    Args:
        base: the language model.
    """

    can_go_on: bool = False  # whether a beginning, such as the prompt, can be run once for many pairs
    can_share: bool = False  # whether passages can be, too
    lora: Lora | None = None

    def __init__(self, base: BaseModel):
        super().__init__()
        self.base = base

    def train(self, mode: bool = True) -> Self:
        """Training mode for what is trained; the base model stays as it is in use: no dropout of its own."""
        super().train(mode)
        self.base.model.eval()
        if self.lora is not None:
            self.lora.train(mode)
        return self
