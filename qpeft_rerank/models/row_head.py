"""The model's output layer where it is needed: at the rows that predict query tokens, in fp32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RowHead(nn.Module):
    """The output layer, applied in fp32 to chosen rows alone: the others would cost a vocabulary each.

    It takes the layer's place in the model, so that whatever a model does to its logits (soft caps, scales)
    still happens. With no rows chosen it is the layer itself.
    """

    def __init__(self, head: nn.Module):
        super().__init__()
        self.head = head
        self.rows: Tensor | None = None

    @classmethod
    def on(cls, model: nn.Module) -> RowHead:
        """The model's RowHead, put there if need be."""
        head = model.get_output_embeddings()
        if not isinstance(head, cls):
            head = cls(head)
            model.set_output_embeddings(head)
        return head

    @property
    def weight(self) -> Tensor:
        """The layer's weight, for code that ties or looks at it."""
        return self.head.weight

    @property
    def bias(self) -> Tensor | None:
        """The layer's bias, for the same (BERT's family)."""
        return getattr(self.head, "bias", None)

    def forward(self, hidden: Tensor) -> Tensor:
        if self.rows is None:
            return self.head(hidden)
        rows = hidden.flatten(0, 1)[self.rows.to(hidden.device)]
        if type(self.head) is nn.Linear and self.head.weight.device == rows.device:
            weight, bias = self.head.weight, self.head.bias
            with torch.autocast(rows.device.type, enabled=False):  # mixed precision would round the logits
                logits = _linear_in_fp32 if weight.requires_grad else _FrozenLinear.apply
                return logits(rows.float(), weight, None if bias is None else bias.float())[None]
        return self.head(rows).float()[None]  # quantised, LoRA-carrying or moved by accelerate: as it is


def _linear_in_fp32(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(rows, weight.float(), bias)


class _FrozenLinear(torch.autograd.Function):
    """The same of a weight that is not trained, whose fp32 copy is not kept for the backward pass.

    A training step has several batches, and each would keep one: 2 GB for 128,000 tokens of 4,096 numbers.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _linear_in_fp32(rows, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return gradient @ ctx.saved_tensors[0].float(), None, None
