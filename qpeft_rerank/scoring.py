"""Many pairs -> scores: sorted by length, in batches filled to a token budget, halved when memory runs out.

A score does not depend on how pairs are batched, so only speed and memory are at stake here: pairs of like
length waste no padding, the longest come first so that memory runs out at once or never, and a passage that
many topics share, or else the prompt, is run once.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from os.path import commonprefix
from typing import NamedTuple

import numpy as np
import torch

from qpeft_rerank.errors import PairError
from qpeft_rerank.models.base import BaseModel
from qpeft_rerank.models.batch import Batch, Prefixes, collate
from qpeft_rerank.models.inputs import PairInput
from qpeft_rerank.models.scorer import Scorer

# Larger batches fall out of a CPU's caches and are slower. Its memory is not scarce, so that the keys and
# values of shared passages, which stream through, hardly count.
CPU_BATCH_TOKENS, CPU_CACHED = 2_560, 0.1
# Passages are shared only if this many times fewer tokens remain: keys and values must be copied.
SHARING_OVERHEAD = 1.3
GPU_MEMORY_SHARE = 0.5  # of what the model leaves; the rest covers fragmentation, and others on the GPU
LOGITS_PER_POSITION = 0.1  # a query has about a tenth of a pair's tokens
# How errors without a type of their own say that memory ran out: on a CPU, on a Mac, in cuBLAS.
_OUT_OF_MEMORY = ("DefaultCPUAllocator: can't allocate", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


@dataclass
class BatchLimits:
    """How much goes in one batch.

    Attributes:
        tokens: positions in all, padding counted; shrinks when memory runs out.
        pairs: most pairs, None for no limit.
        cached: memory of a position's keys and values, which are kept where something is shared, as a share
            of what it takes in the forward pass.
    """

    tokens: int
    pairs: int | None = None
    cached: float = 1.0


def default_limits(
    base: BaseModel, batch_tokens: int | None = None, batch_size: int | None = None
) -> BatchLimits:
    """Limits that fit the device: asked for, or estimated from the GPU's memory and the model's size and
    widths; not from what is free at the moment, so that a resumed run has the same batches.
    """
    config = base.model.config.get_text_config()
    hidden = config.hidden_size
    heads = getattr(config, "num_attention_heads", None) or 1  # state-space models have none
    key_value = getattr(config, "num_key_value_heads", None) or heads
    forward = 8 * hidden + 3 * (getattr(config, "intermediate_size", None) or 4 * hidden)
    logits = LOGITS_PER_POSITION * 2 * 4 * config.vocab_size  # bytes: in fp32, and once more for the softmax
    cache = 2 * config.num_hidden_layers * key_value * (getattr(config, "head_dim", None) or hidden // heads)
    device = base.device
    if batch_tokens is None and device.type == "cuda":
        left = torch.cuda.get_device_properties(device).total_memory - sum(
            p.nbytes for p in base.model.parameters() if p.device == device
        )
        batch_tokens = max(1024, int(GPU_MEMORY_SHARE * left / (base.dtype.itemsize * forward + logits)))
    if device.type == "cpu":
        return BatchLimits(batch_tokens or CPU_BATCH_TOKENS, batch_size, CPU_CACHED)
    return BatchLimits(batch_tokens or CPU_BATCH_TOKENS, batch_size, cache / forward)


class Batches(NamedTuple):
    """Batches that follow each other and share their prefixes: pairs by their index."""

    pairs: list[list[int]]
    prefixes: Prefixes | None


class Plan:
    """The order in which pairs are scored, and how they are cut into batches.

    Pairs go longest first. Where nothing in front of the query depends on it and passages return (one passage
    is a candidate of many topics), a few passages are run once, and then the rest of all their pairs: sorted
    by length again, so that neither part is padded much. Elsewhere what all pairs begin with, the prompt, is
    run once if that pays.
    """

    def __init__(self, scorer: Scorer, inputs: Sequence[PairInput], limits: BatchLimits):
        self.scorer, self.inputs, self.limits = scorer, inputs, limits
        self.share = self._sharing_pays()
        self.common = None if self.share else self._common()
        self.order = sorted(
            range(len(inputs)), key=self._shared_key if self.share else lambda i: -inputs[i].length
        )

    def next(self, rest: Sequence[int]) -> Batches:
        """The batches that come first when ``rest`` is left, in the plan's order; one pair at least."""
        if not self.share:
            count = self._most(self._cost_of_end(rest[0], self.common))
            return Batches([list(rest[:count])], self.common)
        chunk = self._chunk(rest)
        device, pad = self.scorer.base.device, self.scorer.encoder.pad
        prefixes = Prefixes.of([self.inputs[i] for i in chunk], pad).to(device)
        ends = sorted(chunk, key=lambda i: len(self.inputs[i].before) - self.inputs[i].length)
        batches = []
        while ends:
            count = self._most(self._cost_of_end(ends[0], prefixes))
            batches.append(ends[:count])
            ends = ends[count:]
        return Batches(batches, prefixes)

    def all(self) -> list[Batches]:
        """All batches, for those who need them at once."""
        found, rest = [], self.order
        while rest:
            found.append(self.next(rest))
            rest = rest[sum(map(len, found[-1].pairs)) :]
        return found

    def cost(self, pairs: Sequence[int], prefixes: Prefixes | None) -> int:
        """Positions that a batch takes, padding counted: its own or its prefixes', whichever takes more."""
        cost = len(pairs) * self._cost_of_end(pairs[0], prefixes)
        if prefixes is not None:
            count, longest = prefixes.ids.shape
            cost = max(cost, count * self._cost_of_prefix(longest))
        return int(cost)

    def collate(self, indices: Sequence[int], prefixes: Prefixes | None) -> Batch:
        """The batch of these pairs, on the model's device."""
        pairs = [self.inputs[i] for i in indices]
        return collate(pairs, self.scorer.encoder.pad, prefixes).to(self.scorer.base.device)

    def _most(self, cost: float) -> int:
        """How many pairs of at most this cost make a batch."""
        return max(1, min(int(self.limits.tokens / cost), self.limits.pairs or len(self.inputs)))

    def _cost_of_end(self, index: int, prefixes: Prefixes | None) -> float:
        """Positions of a pair behind its prefix, and what its copy of the prefix's keys and values takes."""
        pair = self.inputs[index]
        if prefixes is None:
            return pair.length
        own = pair.length - prefixes.of_pair(pair)[1]
        return own + self.limits.cached * (prefixes.ids.shape[1] + own)

    def _cost_of_prefix(self, length: int) -> float:
        """Positions of a prefix, or twice what its keys and values take: they stay while pairs are run."""
        return length * max(1, 2 * self.limits.cached)

    def _chunk(self, rest: Sequence[int]) -> list[int]:
        """The first pairs of ``rest``: those of as many prefixes as make a batch."""
        most = self._most(self._cost_of_prefix(len(self.inputs[rest[0]].before)))
        count, before, chunk = 0, None, []
        for index in rest:
            pair = self.inputs[index]
            if pair.before != before:
                count, before = count + 1, pair.before
                if count > most:
                    break
            chunk.append(index)
        return chunk

    def _shared_key(self, index: int) -> tuple[int, list[int]]:
        pair = self.inputs[index]
        return -len(pair.before), pair.before

    def _sharing_pays(self) -> bool:
        different = {tuple(pair.before) for pair in self.inputs}
        apart = sum(pair.length for pair in self.inputs)
        together = apart - sum(len(pair.before) for pair in self.inputs) + sum(map(len, different))
        # Windows are counted with the pads between the longest passage of a batch and what comes after it.
        longest = max(map(len, different)) + max(pair.length - len(pair.before) for pair in self.inputs)
        fits = longest <= min(_reaches(self.scorer.base))
        return together * SHARING_OVERHEAD < apart and fits and self.scorer.can_share

    def _common(self) -> Prefixes | None:
        """What every pair begins with, if it pays to run it once; in training each pair has its own.

        It does not pay where memory is scarce: then keys and values of whole pairs must be kept.
        """
        if torch.is_grad_enabled():
            return None
        prompt = Prefixes.common(commonprefix([pair.before for pair in self.inputs]))
        together = sum(self._cost_of_end(i, prompt) for i in range(len(self.inputs))) + prompt.ids.shape[1]
        pays = together < sum(pair.length for pair in self.inputs)
        return prompt.to(self.scorer.base.device) if pays and self.scorer.can_go_on else None


def score_inputs(
    scorer: Scorer,
    inputs: Sequence[PairInput],
    limits: BatchLimits,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """The score of each input, float32, in the order given.

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
    pending: list[tuple[list[int], torch.Tensor]] = []
    with torch.inference_mode():
        plan = Plan(scorer, inputs, limits)
        rest = plan.order
        while rest:
            batches, prefixes = plan.next(rest)
            count = sum(map(len, batches))
            chunk, rest = rest[:count], rest[count:]
            for place, indices in enumerate(batches):
                try:
                    # The values are read later: the device works on meanwhile.
                    pending.append((indices, scorer(plan.collate(indices, prefixes))))
                except (RuntimeError, MemoryError) as error:
                    if not out_of_memory(error):
                        raise
                    if plan.common is not None:  # its keys and values take memory
                        plan.common = None
                    elif len(indices) == 1 and (prefixes is None or len(prefixes.ids) == 1):
                        raise PairError(
                            "out of memory on this pair alone", indices[0], inputs[indices[0]].length
                        ) from error
                    # Half of what failed, so that shorter pairs still fill a batch. One pair may cost more
                    # than the limit: then half of that, down to a single prefix.
                    limits.tokens = max(1, min(limits.tokens, plan.cost(indices, prefixes)) // 2)
                    error.__traceback__ = None  # frees the tensors of the failed batch
                    left = set(chain.from_iterable(batches[place:]))
                    rest = [i for i in chunk if i in left] + rest
                    break
                if progress is not None:
                    progress(len(indices))
            else:
                continue
            prefixes = None
            gc.collect()
            if scorer.base.device.type == "cuda":
                torch.cuda.empty_cache()
    for indices, values in pending:
        scores[indices] = values.float().cpu().numpy()
    if not np.isfinite(scores).all():
        bad = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise PairError(f"the model gives no finite score ({scores[bad]})", bad, inputs[bad].length)
    return scores


def _reaches(base: BaseModel) -> Iterator[float]:
    """How far back a model's layers look, by the names that windows have, and how far they can at all."""
    config = base.model.config.get_text_config()
    for name in ("sliding_window", "window_size", "attention_chunk_size"):
        reach = getattr(config, name, None)
        yield reach if isinstance(reach, int) and reach else math.inf
    yield base.context or math.inf


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out. PyTorch has a type for it on some devices only; elsewhere,
    and from its libraries, it is a message.
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
