"""Many pairs -> scores: sorted by length, in batches filled to a token budget, halved when memory runs out.

A score does not depend on how pairs are batched, so only speed and memory are at stake here: pairs of like
length waste no padding, the longest come first so that memory runs out at once or never, and a passage that
many topics share is run once.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from qpeft_rerank.errors import PairError
from qpeft_rerank.models.batch import Batch, collate
from qpeft_rerank.models.inputs import PairInput
from qpeft_rerank.models.likelihood import QueryLikelihood

CPU_BATCH_TOKENS = 8_192  # larger batches fall out of the caches and are no faster
SHARING_OVERHEAD = (
    1.3  # passages are shared only if this many times fewer tokens remain: keys and values must be copied
)
GPU_MEMORY_SHARE = 0.5  # of what is free once the model is loaded; the rest covers logits and fragmentation


@dataclass
class BatchLimits:
    """How much goes in one batch.

    Attributes:
        tokens: positions in all, padding counted; shrinks when memory runs out.
        pairs: most pairs, None for no limit.
        cached: memory of a position in a shared passage's keys and values, as a share of a position's in the
            forward pass.
    """

    tokens: int
    pairs: int | None = None
    cached: float = 1.0


def default_limits(
    scorer: QueryLikelihood, batch_tokens: int | None = None, batch_size: int | None = None
) -> BatchLimits:
    """Limits that fit the device: asked for, or estimated from free GPU memory and the widths of the
    model.
    """
    config = scorer.base.model.config.get_text_config()
    hidden = config.hidden_size
    heads = getattr(config, "num_attention_heads", None) or 1  # state-space models have none
    key_value = getattr(config, "num_key_value_heads", None) or heads
    forward = 8 * hidden + 3 * (getattr(config, "intermediate_size", None) or 4 * hidden)
    cache = 2 * config.num_hidden_layers * key_value * (getattr(config, "head_dim", None) or hidden // heads)
    device = scorer.base.device
    if batch_tokens is None and device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        batch_tokens = max(1024, int(GPU_MEMORY_SHARE * free / (scorer.base.dtype.itemsize * forward)))
    return BatchLimits(batch_tokens or CPU_BATCH_TOKENS, batch_size, cache / forward)


class Plan:
    """The order in which pairs are scored, and how they are cut into batches.

    Pairs go longest first. Where nothing in front of the query depends on it and passages return (one passage
    is a candidate of many topics), pairs of a passage go together and the passage is run once for all of
    them.
    """

    def __init__(self, scorer: QueryLikelihood, inputs: Sequence[PairInput], limits: BatchLimits):
        self.scorer, self.inputs, self.limits = scorer, inputs, limits
        self.share = self._sharing_pays()
        self.order = sorted(
            range(len(inputs)), key=self._shared_key if self.share else lambda i: -inputs[i].length
        )

    def batch(self, start: int) -> list[int]:
        """Indices of the batch that begins at place ``start`` of the order; one pair at least."""
        places = self.order[start : start + (self.limits.pairs or len(self.order))]
        for count, cost in enumerate(self._costs(places)):
            if cost > self.limits.tokens and count:
                return places[:count]
        return places

    def cost(self, indices: Sequence[int]) -> int:
        """Positions that a batch takes, padding counted, and with shared passages what their copies take."""
        return int(list(self._costs(indices))[-1])

    def _costs(self, indices: Sequence[int]) -> Iterator[float]:
        """The cost of the first pair, of the first two, and so on."""
        if not self.share:
            yield from (
                count * self.inputs[indices[0]].length for count in range(1, len(indices) + 1)
            )  # the first is longest
            return
        widest = longest = prefixes = 0
        before: list[int] | None = None
        for count, index in enumerate(indices, start=1):
            pair = self.inputs[index]
            prefixes += pair.before != before
            before = pair.before
            widest, longest = max(widest, pair.length - len(before)), max(longest, len(before))
            yield count * (widest + self.limits.cached * longest) + prefixes * longest

    def collate(self, indices: Sequence[int]) -> Batch:
        """The batch of these pairs, on the model's device."""
        pairs = [self.inputs[i] for i in indices]
        return collate(pairs, self.scorer.encoder.pad, self.share).to(self.scorer.base.device)

    def _shared_key(self, index: int) -> tuple[int, list[int], int]:
        pair = self.inputs[index]
        return -len(pair.before), pair.before, -len(pair.after)

    def _sharing_pays(self) -> bool:
        different = {tuple(pair.before) for pair in self.inputs}
        apart = sum(pair.length for pair in self.inputs)
        together = apart - sum(len(pair.before) for pair in self.inputs) + sum(map(len, different))
        window = getattr(self.scorer.base.model.config.get_text_config(), "sliding_window", None)
        fits = window is None or max(pair.length for pair in self.inputs) <= window
        return together * SHARING_OVERHEAD < apart and fits and self.scorer.can_share


def score_inputs(
    scorer: QueryLikelihood,
    inputs: Sequence[PairInput],
    limits: BatchLimits,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Mean log-likelihood of each input, float32, in the order given.

    Args:
        scorer: model and adapter.
        inputs: encoded pairs.
        limits: sizes of batches; lowered for good where memory ran out.
        progress: called with the number of pairs of each finished batch.

    Raises:
        PairError: one pair alone is too large for the memory, or its score is not finite; ``index`` says
            which.
    """
    scores = np.empty(len(inputs), dtype=np.float32)
    plan = Plan(scorer, inputs, limits)
    pending: list[tuple[list[int], torch.Tensor]] = []
    start = 0
    with torch.inference_mode():
        while start < len(inputs):
            indices = plan.batch(start)
            try:
                pending.append(
                    (indices, scorer(plan.collate(indices)))
                )  # read later: the device works on meanwhile
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                if len(indices) == 1:
                    raise PairError(
                        "out of memory on this pair alone", indices[0], inputs[indices[0]].length
                    ) from error
                limits.tokens = max(
                    1, plan.cost(indices) // 2
                )  # only that: shorter pairs still fill the batch
                error.__traceback__ = None  # frees the tensors of the failed batch
                gc.collect()
                if scorer.base.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            start += len(indices)
            if progress is not None:
                progress(len(indices))
    for indices, values in pending:
        scores[indices] = values.float().cpu().numpy()
    if not np.isfinite(scores).all():
        bad = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise PairError(f"the model gives no finite score ({scores[bad]})", bad, inputs[bad].length)
    return scores


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out. PyTorch has a type for it on a GPU only; on a CPU just a
    message.
    """
    return isinstance(
        error, (torch.OutOfMemoryError, MemoryError)
    ) or "DefaultCPUAllocator: can't allocate" in str(error)
