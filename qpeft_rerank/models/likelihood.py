"""The score: mean log-likelihood of a query's tokens under the frozen model, given passage, prompt and hints.

Source: Peng et al., arXiv 2404.04522, section 3.1 (and Sachan et al. 2022 for the plain form). Logits are
    computed for the
rows that predict a query token only, in fp32; a batch is padded on the right, where a causal model needs no
mask.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qpeft_rerank.errors import PairError
from qpeft_rerank.models.base import BaseModel
from qpeft_rerank.models.config import AdapterConfig
from qpeft_rerank.models.hints import Hints, Pairs, SoftPrompt, make_hint_block
from qpeft_rerank.models.inputs import PairEncoder, PairInput


@dataclass(frozen=True)
class Batch:
    """Pairs as tensors, padded on the right. B pairs, T positions without hints, N scored tokens in all.

    Attributes:
        ids: [B, T], ``before`` and ``after`` of each pair joined (only ``after`` where prefixes are shared);
            length: [B].
        hint_start: [B], where the hints go.
        query_ids, query_mask: [B, Q] and passage_ids, candidate: [B, P], what the hints are made from.
        scored_row, scored_column: [N], pair and position (without hints) of each scored token.
        prefix_ids, prefix_length: [S, L] and [S], the different ``before``s, if they are shared; prefix_of:
            [B], a pair's.
        positions: most positions that a pair takes, hints included and a shared prefix not.
    """

    ids: Tensor
    length: Tensor
    hint_start: Tensor
    query_ids: Tensor
    query_mask: Tensor
    passage_ids: Tensor
    candidate: Tensor
    scored_row: Tensor
    scored_column: Tensor
    prefix_ids: Tensor | None
    prefix_length: Tensor | None
    prefix_of: Tensor | None
    positions: int

    @property
    def pairs(self) -> Pairs:
        """What the hints are made from."""
        return Pairs(self.query_ids, self.query_mask, self.passage_ids, self.candidate)

    def to(self, device: torch.device) -> Batch:
        """The same on another device; copies to a GPU do not wait."""
        tensors = {
            f.name: value.to(device, non_blocking=True)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **tensors)


def collate(inputs: Sequence[PairInput], pad: int = 0, share: bool = False) -> Batch:
    """Pad pairs to a `Batch`; with ``share``, each different ``before`` goes in once, and pairs continue from
    it.
    """
    rows = [p.after if share else p.before + p.after for p in inputs]
    queries = _pad([p.query for p in inputs], pad)
    scored = [
        (row, column)
        for row, p in enumerate(inputs)
        for column in range(len(rows[row]) - p.scored, len(rows[row]))
    ]
    scored_row, scored_column = torch.tensor(scored).T
    prefixes: dict[tuple[int, ...], int] = {}
    prefix_of = [prefixes.setdefault(tuple(p.before), len(prefixes)) for p in inputs] if share else []
    return Batch(
        ids=_pad(rows, pad),
        length=torch.tensor([len(row) for row in rows]),
        hint_start=torch.tensor([0 if share else len(p.before) for p in inputs]),
        query_ids=queries,
        query_mask=torch.arange(queries.shape[1]) < torch.tensor([len(p.query) for p in inputs])[:, None],
        passage_ids=_pad([p.passage for p in inputs], pad),
        candidate=_pad([p.candidate for p in inputs], False).bool(),
        scored_row=scored_row,
        scored_column=scored_column,
        prefix_ids=_pad([list(prefix) for prefix in prefixes], pad) if share else None,
        prefix_length=torch.tensor([len(prefix) for prefix in prefixes]) if share else None,
        prefix_of=torch.tensor(prefix_of) if share else None,
        positions=max(p.length - (len(p.before) if share else 0) for p in inputs),
    )


def _pad(rows: list[list[int]], value: int) -> Tensor:
    width = max(1, max(map(len, rows)))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows], dtype=torch.long)


class RowHead(nn.Module):
    """The model's output layer, applied in fp32 to chosen rows alone: the others would cost a vocabulary
    each.

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

    def forward(self, hidden: Tensor) -> Tensor:
        if self.rows is None:
            return self.head(hidden)
        rows = hidden.flatten(0, 1)[self.rows.to(hidden.device)]
        if type(self.head) is nn.Linear and self.head.weight.device == rows.device:
            bias = None if self.head.bias is None else self.head.bias.float()
            return F.linear(rows.float(), self.head.weight.float(), bias)[None]
        return self.head(rows).float()[None]  # quantised, LoRA-carrying or moved by accelerate: as it is


class QueryLikelihood(nn.Module):
    """Frozen base model + trained part -> log-likelihood of queries.

    Args:
        base: the language model.
        config: the settings; with ``layout="published"`` everything is as the published code does it.
    """

    def __init__(self, base: BaseModel, config: AdapterConfig):
        super().__init__()
        self.config, self.base = config, base
        self.published = config.layout == "published"
        if self.published:
            from qpeft_rerank.models import published

            self.encoder: PairEncoder = published.PublishedEncoder(base.tokenizer, config)
            make_hints = published.make_hint_block
        else:
            self.encoder = PairEncoder(base.tokenizer, config, base.context)
            make_hints = make_hint_block
        self.model = base.model
        self._head = (RowHead.on(base.model),)  # in a tuple: it is part of the model already
        embeddings = base.embeddings
        self.prompt = None
        if config.soft_prompt:
            ids = torch.tensor(self.encoder.prompt, device=embeddings.weight.device)
            self.prompt = SoftPrompt(embeddings(ids), config.prompt_layers).to(base.device)
        hints = make_hints(config, embeddings, self.encoder)
        self.hints = None if hints is None else hints.to(base.device)
        self.train(False)

    def train(self, mode: bool = True) -> QueryLikelihood:
        """Training mode for the trained part; the base model always stays as it is when it scores (no
        dropout).
        """
        super().train(mode)
        self.model.eval()
        return self

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """What training changes and an adapter folder keeps, by name."""
        return {name: p for name, p in self.named_parameters() if not name.startswith("model.")}

    def forward(self, batch: Batch) -> Tensor:
        """Mean log-likelihood of each pair's scored tokens, [B], fp32; higher is better."""
        tokens = self.token_log_likelihoods(batch)
        counted = (tokens != 0).float() if self.published else torch.ones_like(tokens)
        zeros = tokens.new_zeros(len(batch.ids))
        row = batch.scored_row
        return zeros.index_add(0, row, tokens) / zeros.index_add(0, row, counted)

    def token_log_likelihoods(self, batch: Batch) -> Tensor:
        """Log-likelihood of every scored token, [N], fp32, in the order of ``batch.scored_row``."""
        vectors, visible, last = self._sequence(batch)
        context: dict[str, Any] = {"attention_mask": visible if self.published else None, "use_cache": False}
        if batch.prefix_ids is not None:
            context = self._prefix(batch, visible)
        logits = self._run(last, inputs_embeds=vectors, **context).logits[0].float()
        labels = batch.ids[batch.scored_row, batch.scored_column]
        return -F.cross_entropy(logits, labels.to(logits.device), reduction="none").to(labels.device)

    @cached_property
    def can_share(self) -> bool:
        """Whether passages can be run once for many queries: nothing before them depends on the query, and
        the model's cache does what it should (tried on two passages and queries, since models differ in what
        they keep).
        """
        if self.published or (self.hints is not None and self.config.placement == "prefix"):
            return False
        from qpeft_rerank.passages import Passage

        passages = [
            Passage("1", "", "one short text"),
            Passage("2", "", "another text that is a little longer than that"),
        ]
        pairs = [(query, passage) for passage in passages for query in ("which text", "is it longer or not")]
        training = self.training
        self.eval()
        try:
            with torch.inference_mode():
                inputs = self.encoder.encode(pairs)
                plain = self(collate(inputs).to(self.base.device))
                shared = self(collate(inputs, share=True).to(self.base.device))
        except (PairError, AttributeError, TypeError, ValueError, RuntimeError, NotImplementedError):
            return False  # a model without such a cache, or too short for the trial
        finally:
            self.train(training)
        tolerance = 1e-4 if self.base.dtype == torch.float32 else 5e-2
        return bool(torch.allclose(plain, shared, atol=tolerance, rtol=tolerance))

    def _run(self, rows: Tensor, **inputs: Any) -> Any:
        """The model's output, with fp32 logits at the flat positions ``rows`` alone: [1, N, V]."""
        head = self._head[0]
        head.rows = rows
        try:
            return self.model(**inputs)
        finally:
            head.rows = None

    def _prefix(self, batch: Batch, visible: Tensor) -> dict[str, Any]:
        """Run each shared prefix once; what the model needs to go on from its keys and values to what is
        ``visible`` [B, T'].
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.prompt is not None):
            vectors = self._with_prompt(self.base.embeddings(batch.prefix_ids))
            one = torch.zeros(
                1, dtype=torch.long, device=vectors.device
            )  # no logit is needed, one is the least
            cache = self._run(one, inputs_embeds=vectors, use_cache=True).past_key_values
        cache.batch_select_indices(batch.prefix_of)
        length = batch.prefix_length[batch.prefix_of][:, None]
        there = torch.arange(batch.prefix_ids.shape[1], device=length.device) < length
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
        """Vectors [B, T', D], their mask [B, T'], and for each scored token the flat index of the row that
        predicts it.
        """
        vectors = self.base.embeddings(batch.ids)
        visible = torch.arange(vectors.shape[1], device=vectors.device) < batch.length[:, None]
        if batch.prefix_ids is None:
            vectors = self._with_prompt(vectors)
        column = batch.scored_column
        if self.hints is None and not self.published:  # nothing can be missing
            return vectors, visible, batch.scored_row * vectors.shape[1] + column - 1
        if self.hints is not None:
            hints = self.hints(batch.pairs)
            vectors, visible = _insert(vectors, visible, batch.hint_start, hints)
            column = column + (column >= batch.hint_start[batch.scored_row]) * hints.mask.shape[1]
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


def _insert(vectors: Tensor, visible: Tensor, start: Tensor, hints: Hints) -> tuple[Tensor, Tensor]:
    """Put the hints [B, H, D] at column ``start`` of each row; what stood there and after moves right."""
    width, count = vectors.shape[1], hints.mask.shape[1]
    joined = torch.cat([vectors, hints.vectors.to(vectors.dtype)], dim=1)
    column = torch.arange(width + count, device=start.device).expand(len(start), -1)
    past = column - start[:, None]  # 0 at the first hint
    source = torch.where(past < 0, column, torch.where(past < count, width + past, column - count))
    both = torch.cat([visible, hints.mask], dim=1)
    return joined.gather(1, source[:, :, None].expand(-1, -1, vectors.shape[2])), both.gather(1, source)
