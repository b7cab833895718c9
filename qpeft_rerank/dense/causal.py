"""RepLLaMA: a causal language model as encoder; the state of a text's end is its vector.

``query: {query}</s>`` and ``passage: {title} {text}</s>``: the last hidden state of the last token, at
length 1 (Ma et al., arXiv 2310.08319). Without a title it is ``passage: {text}``, as the authors' code,
Tevatron, writes it now; its first version left two blanks. With LLaRA's template a vector is the mean over
the special tokens at the end (Li et al., arXiv 2312.15503).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qpeft_rerank.dense.batches import embed
from qpeft_rerank.dense.config import EncoderConfig
from qpeft_rerank.dense.description import describe_encoder
from qpeft_rerank.dense.inputs import SideInputs
from qpeft_rerank.errors import InputError
from qpeft_rerank.models.base import BaseModel, body_of
from qpeft_rerank.models.inputs import passage_text
from qpeft_rerank.passages import Passage
from qpeft_rerank.scoring import default_limits


class CausalEncoder(nn.Module):
    """An `Encoder` made of a causal language model.

    Args:
        base: the language model; it may carry a LoRA.
        config: how texts are put to it; its pooling is ``last``.
        batch_tokens: positions in a batch, by default what fits the device.
        lora_revision: commit of the LoRA that the model carries, for the description.

    Raises:
        InputError: the pooling is another, the tokenizer lacks a mark of the template, or nothing of a text
            fits the model.
    """

    def __init__(
        self,
        base: BaseModel,
        config: EncoderConfig,
        batch_tokens: int | None = None,
        lora_revision: str | None = None,
    ):
        super().__init__()
        if config.pooling != "last":
            raise InputError(
                f"pooling: {config.pooling!r} is not for a causal model, whose last token saw the rest"
            )
        self.base, self.config, self.lora_revision = base, config, lora_revision
        self.model = base.model
        self.queries = SideInputs(base.tokenizer, config.query, base.context)
        self.passages = SideInputs(base.tokenizer, config.passage, base.context)
        self.batch_tokens = default_limits(base, batch_tokens).tokens

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return int(self.encode_queries(["a"]).shape[1])

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """See `Encoder`."""
        return self._encode(self.queries, texts, None)

    def encode_passages(
        self, passages: Sequence[Passage], progress: Callable[[int], object] | None = None
    ) -> np.ndarray:
        """See `Encoder`."""
        return self._encode(self.passages, [passage_text(p, "title text") for p in passages], progress)

    def describe(self) -> dict[str, Any]:
        """See `Encoder`."""
        return describe_encoder(self.base, self.config, True, self.lora_revision)

    def forward(self, ids: Tensor, length: Tensor, pooled: int = 1) -> Tensor:
        """Vectors [B, D] of length 1, fp32, of right-padded ids [B, T]: the mean of the last ``pooled``
        states.

        No mask: a causal model sees nothing of the padding behind a text.
        """
        states = body_of(self.model)(input_ids=ids, use_cache=False).last_hidden_state
        at = states.device  # of the last layer, which may be on another GPU than the first
        columns = length.to(at)[:, None] - torch.arange(pooled, 0, -1, device=at)
        rows = torch.arange(len(ids), device=at)[:, None]
        return F.normalize(states[rows, columns].float().mean(dim=1), dim=-1)

    def _encode(
        self, side: SideInputs, texts: Sequence[str], progress: Callable[[int], object] | None
    ) -> np.ndarray:
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)

        def forward(ids: Tensor, length: Tensor) -> Tensor:
            return self(ids, length, side.pooled)

        return embed(side.encode(texts), forward, self.base.device, self.batch_tokens, progress)
