"""The score: mean log-likelihood of a query's tokens under the frozen model, given passage, prompt and hints.

Source: Peng et al., arXiv 2404.04522, section 3.1 (and Sachan et al. 2022 for the plain form). Logits are
computed for the rows that predict a query token only, in fp32; a batch is padded on the right, where a causal
model needs no mask.
"""

from __future__ import annotations

import copy
import inspect
import logging
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from qpeft_rerank.errors import one_line
from qpeft_rerank.models import hints, published
from qpeft_rerank.models.base import BaseModel
from qpeft_rerank.models.batch import Batch, Prefixes, collate
from qpeft_rerank.models.config import AdapterConfig
from qpeft_rerank.models.inputs import PairEncoder
from qpeft_rerank.models.lora import put_to_work
from qpeft_rerank.models.row_head import RowHead
from qpeft_rerank.models.scorer import Scorer
from qpeft_rerank.passages import Passage

logger = logging.getLogger(__name__)


class QueryLikelihood(Scorer):
    """Frozen base model + trained part -> log-likelihood of queries.

    Args:
        base: the language model.
        config: the settings; with ``layout="published"`` everything is as the published code does it.
    """

    def __init__(self, base: BaseModel, config: AdapterConfig):
        super().__init__(base, config)
        self.published = config.layout == "published"
        if self.published:
            self.encoder = published.PublishedEncoder(base.tokenizer, config)
        else:
            self.encoder = PairEncoder(base.tokenizer, config, base.context)
        self._head = (RowHead.on(base.model),)  # in a tuple: it is part of the model already
        embeddings = base.embeddings
        self.prompt = None
        if config.soft_prompt:
            ids = torch.tensor(self.encoder.prompt, device=embeddings.weight.device)
            self.prompt = hints.SoftPrompt(embeddings(ids), config.prompt_layers).to(base.device)
        make_hint_block = published.make_hint_block if self.published else hints.make_hint_block
        block = make_hint_block(config, embeddings, self.encoder)
        self.hints = None if block is None else block.to(base.device)
        self.train(False)

    def forward(self, batch: Batch) -> Tensor:
        """Mean log-likelihood of each pair's scored tokens, [B], fp32; higher is better."""
        tokens = self.token_log_likelihoods(batch)
        counted = (tokens != 0).float() if self.published else torch.ones_like(tokens)
        # Side by side, then summed: adding into rows by index takes any order on a GPU, and so rounds anew.
        row = batch.scored_row
        place = batch.length[row] - 1 - batch.scored_column
        empty = tokens.new_zeros(batch.ids.shape)
        return empty.index_put((row, place), tokens).sum(dim=1) / empty.index_put((row, place), counted).sum(
            dim=1
        )

    def token_log_likelihoods(self, batch: Batch) -> Tensor:
        """Log-likelihood of every scored token, [N], fp32, in the order of ``batch.scored_row``."""
        vectors, visible, last = self._sequence(batch)
        context: dict[str, Any] = {"attention_mask": visible if self.published else None, "use_cache": False}
        if batch.prefixes is not None:
            context = self._prefix(batch, visible)
        logits = self._run(last, inputs_embeds=vectors, **context).logits.squeeze(0).float()
        labels = batch.ids[batch.scored_row, batch.scored_column]
        return -F.cross_entropy(logits, labels.to(logits.device), reduction="none").to(labels.device)

    @cached_property
    def can_share(self) -> bool:
        """Whether passages can be run once for many queries: nothing before them may depend on the query."""
        return (self.hints is None or self.config.placement == "suffix") and self.can_go_on

    @cached_property
    def can_go_on(self) -> bool:
        """Whether the model goes on from what it keeps of a beginning as if it had read that anew.

        That is tried on two passages and queries, since models differ in what they keep. One passage is much
        longer: what goes wrong is mostly the place of what comes after its pads.
        """
        if self.published:
            return False
        passages = [
            Passage("1", "", "one short text"),
            Passage("2", "", "another text that is a good deal longer than that " * 6),
        ]
        pairs = [(query, passage) for passage in passages for query in ("which text", "is it longer or not")]
        training = self.training
        self.eval()
        # Without autocast: its rounding would look like a cache that does not work, in a training alone.
        exactly = torch.autocast(self.base.device.type, enabled=False)
        try:
            with torch.inference_mode(), exactly:
                inputs = self.encoder.encode(pairs)
                prefixes = Prefixes.of(inputs).to(self.base.device)
                plain = self(collate(inputs).to(self.base.device))
                parts = [collate(part, prefixes=prefixes) for part in (inputs[:1], inputs[1:])]
                shared = torch.cat([self(part.to(self.base.device)) for part in parts])
        except Exception as error:
            # A model without such a cache fails in its own way; or it is too short for the trial.
            logger.info("nothing is run once for many pairs: %s", one_line(error))
            return False
        finally:
            self.train(training)
        # In 16 bits rounding is in the way; what a wrong place does is as large as passages differ.
        exact = self.base.dtype == torch.float32
        same = bool(torch.allclose(plain, shared, atol=1e-4 if exact else 3e-2, rtol=1e-4 if exact else 0))
        if not same:
            logger.info("nothing is run once for many pairs: the model's cache gives other scores")
        return same

    def _run(self, rows: Tensor, **inputs: Any) -> Any:
        """The model's output, with fp32 logits at the flat positions ``rows`` alone: [1, N, V]."""
        put_to_work(self.model, self.lora)
        head = self._head[0]
        head.rows = rows
        try:
            return self.model(**inputs)
        finally:
            head.rows = None

    def _prefix(self, batch: Batch, visible: Tensor) -> dict[str, Any]:
        """The model's arguments to go on from shared prefixes, which are run once, to ``visible`` [B, T']."""
        prefixes = batch.prefixes
        if prefixes.states is None:
            trained = self.prompt is not None or self.lora is not None  # else nothing there has a gradient
            with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
                vectors = self._with_prompt(self.base.embeddings(prefixes.ids))
                row = torch.zeros(1, dtype=torch.long, device=vectors.device)  # one logit is the least
                prefixes.states = self._run(row, inputs_embeds=vectors, use_cache=True).past_key_values
        cache = copy.copy(prefixes.states)  # it grows with the batch, the prefixes' own stays
        cache.layers = [copy.copy(layer) for layer in cache.layers]
        for layer in cache.layers:  # each may be on a device of its own
            keys = getattr(layer, "keys", None)
            layer.batch_select_indices(batch.prefix_of if keys is None else batch.prefix_of.to(keys.device))
        length = prefixes.length[batch.prefix_of][:, None]
        there = torch.arange(prefixes.ids.shape[1], device=length.device) < length
        mask = torch.cat([there, visible], dim=1)
        context = {"past_key_values": cache, "attention_mask": mask, "use_cache": True}
        if "position_ids" in inspect.signature(self.model.forward).parameters:  # else it counts by the mask
            # Pads stay at the last real position: further on the model may have none.
            context["position_ids"] = mask.cumsum(dim=1)[:, there.shape[1] :] - 1
        return context

    def _with_prompt(self, vectors: Tensor) -> Tensor:
        """Put the soft prompt, if there is one, in the place of the prompt's tokens."""
        if self.prompt is None:
            return vectors
        start, soft = self.encoder.prompt_start, self.prompt().to(vectors.dtype).expand(len(vectors), -1, -1)
        return torch.cat([vectors[:, :start], soft, vectors[:, start + soft.shape[1] :]], dim=1)

    def _sequence(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors [B, T', D], their mask [B, T'], and the flat index of the row that predicts each token."""
        vectors = self.base.embeddings(batch.ids)
        visible = torch.arange(vectors.shape[1], device=vectors.device) < batch.length[:, None]
        if batch.prefixes is None:
            vectors = self._with_prompt(vectors)
        column = batch.scored_column
        if self.hints is None and not self.published:  # nothing can be missing
            return vectors, visible, batch.scored_row * vectors.shape[1] + column - 1
        if self.hints is not None:
            block = self.hints(batch.pairs)
            vectors, visible = _insert(vectors, visible, batch.hint_start, block)
            column = column + (column >= batch.hint_start[batch.scored_row]) * block.mask.shape[1]
        width = batch.positions
        # Hidden positions (pads, places of hints that are missing) go behind everything; in the published
        # layout in front.
        order = visible.to(torch.uint8).argsort(dim=1, descending=not self.published, stable=True)
        order = order[:, -width:] if self.published else order[:, :width]
        place = visible.cumsum(dim=1) - 1
        if self.published:
            place = place + (width - visible.sum(dim=1, keepdim=True))
        vectors = vectors.gather(1, order[:, :, None].expand(-1, -1, vectors.shape[2]))
        last = batch.scored_row * width + place[batch.scored_row, column] - 1
        return vectors, visible.gather(1, order), last


def _insert(vectors: Tensor, visible: Tensor, start: Tensor, block: hints.Hints) -> tuple[Tensor, Tensor]:
    """Put the hints [B, H, D] at column ``start`` of each row; what stood there and after moves right."""
    width, count = vectors.shape[1], block.mask.shape[1]
    joined = torch.cat([vectors, block.vectors.to(vectors.dtype)], dim=1)
    column = torch.arange(width + count, device=start.device).expand(len(start), -1)
    past = column - start[:, None]  # 0 at the first hint
    source = torch.where(past < 0, column, torch.where(past < count, width + past, column - count))
    both = torch.cat([visible, block.mask], dim=1)
    return joined.gather(1, source[:, :, None].expand(-1, -1, vectors.shape[2])), both.gather(1, source)
