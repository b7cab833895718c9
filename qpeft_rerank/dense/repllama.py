"""Training RepLLaMA: a LoRA in a causal language model, so that queries lie near passages that answer them.

The loss of a query q with its relevant passage p is InfoNCE (Ma et al., arXiv 2310.08319):

    -log( exp(s(q, p) / t) / (exp(s(q, p) / t) + sum over negatives n of exp(s(q, n) / t)) )

with s the cosine of the two vectors, t the temperature (0.01 by default), and as negatives hard ones from a
run and the passages of the other queries of the step, but those that are relevant to q.

The folder that a training writes holds `lora/` (plain peft), `encoder.json` (how texts are put to the model),
`probe.npy` (what the encoder makes of a probe text: the wrong base model is told by it) and a card.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qpeft_rerank.dense.batches import pad, plan_batches
from qpeft_rerank.dense.causal import CausalEncoder
from qpeft_rerank.dense.config import EncoderConfig, save_encoder_config
from qpeft_rerank.dense.encoder import Encoder, encode_probe, known_config
from qpeft_rerank.dense.vectors import PROBE_FILE
from qpeft_rerank.errors import AdapterError, InputError
from qpeft_rerank.files import atomic_write, replacing
from qpeft_rerank.models import lora
from qpeft_rerank.models.base import BaseModel
from qpeft_rerank.models.config import AdapterConfig
from qpeft_rerank.models.inputs import passage_text
from qpeft_rerank.models.on_base import OnBaseModel
from qpeft_rerank.passages import Passage, Passages
from qpeft_rerank.training.config import TrainingConfig
from qpeft_rerank.training.groups import Group, step_pairs
from qpeft_rerank.training.loss import compare_pairs

CARD_FILE = "README.md"
Texts = tuple[Tensor, Tensor, int]
"""A batch of one side: padded ids [B, T], lengths [B], and how many of the last states make a vector."""


@dataclass(frozen=True)
class RepLlamaConfig:
    """What is trained (the LoRA's settings) and how texts are put to the model."""

    adapter: AdapterConfig
    encoder: EncoderConfig

    @property
    def method(self) -> str:
        """Name of the method, for runs."""
        return self.adapter.method

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, for records."""
        return {**self.adapter.to_dict(), "encoder": self.encoder.to_dict()}


class RepLlama(OnBaseModel):
    """An encoder with a LoRA in training.

    Args:
        base: the frozen language model. A folder that `qpeft adapt` wrote brings its own template.
        settings: the LoRA's settings, and after how many tokens a passage is cut.

    Raises:
        InputError: the model carries a LoRA.
    """

    def __init__(self, base: BaseModel, settings: AdapterConfig):
        super().__init__(base)
        if base.lora is not None:  # its folder has one LoRA, and peft's form names one base model
            raise InputError(
                f"repllama: the model carries the LoRA {base.lora!r}; merge it into a model folder first "
                "(peft: merge_and_unload, save_pretrained)"
            )
        texts = known_config(base.name, base.revision)
        texts = replace(texts, passage_tokens=settings.passage_tokens)
        self.config = RepLlamaConfig(settings, texts)
        self.encoder = CausalEncoder(base, texts)
        self.lora = lora.Lora.fresh(base, settings)
        self.eval()

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """The LoRA's weights, by name."""
        return self.lora.parameters()

    def forward(self, batches: Sequence[Texts]) -> Tensor:
        """The vectors of all batches, one after the other, [N, D]."""
        lora.put_to_work(self.base.model, self.lora)
        return torch.cat([self.encoder(*batch) for batch in batches])


class RepLlamaObjective:
    """InfoNCE over the queries and passages of a step (an `training.objective.Objective`)."""

    def __init__(
        self, base: BaseModel, settings: AdapterConfig, passages: Passages, training: TrainingConfig
    ):
        self.scorer = self.module = RepLlama(base, settings)
        self.passages, self.training = passages, training

    def loss(self, module: nn.Module, examples: Sequence[Group]) -> Tensor:
        """Mean over the step's queries; each query and passage is encoded once, in one call of ``module``."""
        step = step_pairs(examples, self.passages, self.training.in_batch)
        queries = list(dict.fromkeys(query for query, _ in step.pairs))
        passages = list(dict.fromkeys(passage for _, passage in step.pairs))
        encoder = self.scorer.encoder
        inputs = encoder.queries.encode(queries)
        inputs += encoder.passages.encode([passage_text(p, "title text") for p in passages])
        batches, order = [], []
        for start, end, side in (
            (0, len(queries), encoder.queries),
            (len(queries), len(inputs), encoder.passages),
        ):
            for places in plan_batches([len(row) for row in inputs[start:end]], encoder.batch_tokens):
                rows = [start + place for place in places]
                batches.append((*pad([inputs[row] for row in rows], self.scorer.base.device), side.pooled))
                order += rows
        found = module(batches)
        vectors = torch.empty_like(found).index_copy(0, torch.tensor(order, device=found.device), found)
        row_of = {text: row for row, text in enumerate([*queries, *passages])}
        left = vectors[[row_of[query] for query, _ in step.pairs]]
        right = vectors[[row_of[passage] for _, passage in step.pairs]]
        return compare_pairs(-(left * right).sum(dim=1), step, self.training)

    def pair_scorer(self) -> DotProducts:
        """The cosine of a query and a passage."""
        lora.put_to_work(self.scorer.base.model, self.scorer.lora)
        return DotProducts(self.scorer.encoder)

    def save(self, folder: Path, card: Mapping[str, Any]) -> None:
        """Write the encoder's folder."""
        scorer = self.scorer
        folder.mkdir(parents=True, exist_ok=True)
        training = scorer.training
        scorer.eval()
        lora.put_to_work(scorer.base.model, scorer.lora)
        probe = encode_probe(scorer.encoder)
        scorer.train(training)
        scorer.lora.save(folder / lora.FOLDER, {})
        with replacing(folder / PROBE_FILE) as temporary, temporary.open("wb") as stream:
            np.save(stream, probe, allow_pickle=False)
        with atomic_write(folder / CARD_FILE) as stream:
            stream.write(_card(scorer, card))
        save_encoder_config(folder, scorer.encoder.config)  # last: it makes the folder whole

    def restore(self, folder: Path) -> None:
        """Take back the LoRA that was saved there. Raises `AdapterError` if it is of another training."""
        parameters, saved = self.scorer.trained_parameters(), lora.read_weights(folder / lora.FOLDER)
        if {k: v.shape for k, v in parameters.items()} != {k: v.shape for k, v in saved.items()}:
            raise AdapterError(f"{folder / lora.FOLDER} is of another training")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(saved[name])


class DotProducts:
    """Scores pairs by the dot product of their vectors: an encoder as a reranker."""

    def __init__(self, encoder: Encoder):
        self.encoder = encoder

    def score(
        self, pairs: Sequence[tuple[str, Passage]], progress: Callable[[int], None] | None = None
    ) -> np.ndarray:
        """A float32 score for each (query, passage); each text is encoded once."""
        queries = list(dict.fromkeys(query for query, _ in pairs))
        passages = list(dict.fromkeys(passage for _, passage in pairs))
        left, right = self.encoder.encode_queries(queries), self.encoder.encode_passages(passages)
        row_of = {text: row for row, text in enumerate(queries)}
        column_of = {passage: column for column, passage in enumerate(passages)}
        rows = [row_of[query] for query, _ in pairs]
        columns = [column_of[passage] for _, passage in pairs]
        if progress is not None:
            progress(len(pairs))
        return np.einsum("nd,nd->n", left[rows], right[columns])


def _card(scorer: RepLlama, facts: Mapping[str, Any]) -> str:
    """The README of the folder, in the hub's form."""
    name = scorer.base.name
    lines = [
        "---",
        "library_name: qpeft-rerank",
        f"base_model: {json.dumps(name)}",
        "tags: [dense-retrieval, repllama]",
        "---",
        "",
        "# RepLLaMA encoder",
        "",
        f"Turns queries and passages into vectors, by a LoRA on `{name}` (arXiv 2310.08319).",
        f"`{lora.FOLDER}/` is the LoRA as peft reads it.",
        "",
        "    qpeft encode --adapter THIS_FOLDER --corpus CORPUS --output VECTORS",
        "",
        "## Training",
        "",
        *(f"* {key}: {value}" for key, value in facts.items()),
        "",
    ]
    return "\n".join(lines)
