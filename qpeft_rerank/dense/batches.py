"""Token ids -> vectors: batches of like length to a token budget, halved when memory runs out."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from qpeft_rerank.errors import InputError
from qpeft_rerank.scoring import out_of_memory

Forward = Callable[[Tensor, Tensor], Tensor]
"""(ids [B, T], length [B]) -> vectors [B, D]."""


def plan_batches(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Places of the inputs, longest first, in batches of at most ``tokens`` positions (or one input)."""
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    batches, start = [], 0
    while start < len(order):
        count = max(1, tokens // max(1, lengths[order[start]]))
        batches.append(order[start : start + count])
        start += count
    return batches


def pad(inputs: Sequence[Sequence[int]], device: torch.device, filler: int = 0) -> tuple[Tensor, Tensor]:
    """Right-padded ids [B, T] and lengths [B]."""
    width = max(map(len, inputs))
    ids = torch.tensor([[*row, *[filler] * (width - len(row))] for row in inputs])
    length = torch.tensor([len(row) for row in inputs])
    return ids.to(device, non_blocking=True), length.to(device, non_blocking=True)


def embed(
    inputs: Sequence[Sequence[int]],
    forward: Forward,
    device: torch.device,
    tokens: int,
    progress: Callable[[int], object] | None = None,
) -> np.ndarray:
    """Vectors of the inputs, float32 [N, D], in the order given; N at least 1.

    Args:
        inputs: token ids.
        forward: the model.
        device: where it is.
        tokens: positions in a batch, padding counted; less from where memory runs out.
        progress: called with the number of inputs of each finished batch.

    Raises:
        InputError: one input alone is too large for the memory, or its vector is not finite.
    """
    lengths = [len(row) for row in inputs]
    waiting = plan_batches(lengths, tokens)[::-1]
    vectors: np.ndarray | None = None
    with torch.inference_mode():
        while waiting:
            places = waiting.pop()
            try:
                found = forward(*pad([inputs[i] for i in places], device)).float().cpu().numpy()
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                if len(places) == 1:
                    raise InputError(f"out of memory on one text of {lengths[places[0]]} tokens") from error
                half = len(places) // 2
                waiting += [places[half:], places[:half]]
                error.__traceback__ = None  # frees the tensors of the failed batch
                gc.collect()
                if device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            if not np.isfinite(found).all():
                raise InputError("the model gives a vector that is not finite (try --dtype float32)")
            if vectors is None:
                vectors = np.empty((len(inputs), found.shape[1]), dtype=np.float32)
            vectors[places] = found
            if progress is not None:
                progress(len(places))
    assert vectors is not None
    return vectors
