"""RankLLaMA (Ma et al., arXiv 2310.08319): a linear layer on the last token of query and passage, and a LoRA.

    [bos] query: {query} document: {title} {text} [eos]           layout "default", the paper's text
    [bos] query: {query} [bos] document: {title} {text}           layout "published", that of its checkpoints

The checkpoints (castorini/rankllama-v1-7b-lora-passage ...) are peft LoRAs of transformers' sequence
classification; `open_checkpoint` reads that form. Their input is that of the authors' code (Tevatron,
examples/rankllama at 130ed2c): two sequences, each with its beginning, and no end. Weights that peft wrote
before 0.7 are a pickle, `adapter_model.bin`, which is not read; `torch.load(..., weights_only=True)` and
safetensors' `save_file` make of it the file that is. Ours has the form of the checkpoints too, in the
subfolder `lora/`. There is no vocabulary here: the model's body is run, and the layer sees one row of each
pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from qpeft_rerank.errors import AdapterError, InputError, PairError
from qpeft_rerank.models.base import BaseModel, body_of
from qpeft_rerank.models.batch import Batch
from qpeft_rerank.models.config import AdapterConfig
from qpeft_rerank.models.inputs import PairEncoder, PairInput, TokenizedPassage, passage_text
from qpeft_rerank.models.lora import Lora, put_to_work, read_peft_config, read_weights
from qpeft_rerank.models.scorer import Scorer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from qpeft_rerank.passages import Passage

QUERY, DOCUMENT = "query: ", "document: "
SCORE = "score.weight"  # the linear layer's name in checkpoints and in our adapters


class RankEncoder(PairEncoder):
    """(query, passage) -> `PairInput`; all of it stands in ``after``, and its last token makes the score."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: AdapterConfig, context: int | None = None):
        super().__init__(tokenizer, config, context)
        self.published = config.layout == "published"
        if self.published:
            self.middle, self.end, self.document = self.bos, [], DOCUMENT
        else:
            # Query and document are tokenised apart, and joined give what the tokenizer makes of the whole
            # text: some tokenizers put the blank between them at the next word by themselves.
            apart = self._ids(f"{QUERY}a") + self._ids(f"{DOCUMENT}b")
            alone = apart == self._ids(f"{QUERY}a {DOCUMENT}b")
            self.middle, self.end, self.document = [], self.eos, DOCUMENT if alone else f" {DOCUMENT}"

    def encode(self, pairs: Sequence[tuple[str, Passage]]) -> list[PairInput]:
        texts = [self.document + self._text(passage) for _, passage in pairs]
        with self._lock:
            queries = self._tokenize_queries([QUERY + query for query, _ in pairs])
            passages = self._tokenize_passages(texts)
        return [self._join(index, *pair) for index, pair in enumerate(zip(queries, passages, strict=True))]

    def _text(self, passage: Passage) -> str:
        if self.published:  # a blank even where there is no title
            return f"{passage.title} {passage.text}"
        return passage_text(passage, self.config.passage_format)

    def _join(self, index: int, query: list[int], passage: TokenizedPassage) -> PairInput:
        fixed = len(self.bos) + len(query) + len(self.middle) + len(self.end)
        ids = passage.ids
        if self.context is not None and fixed + len(ids) > self.context:
            if fixed >= self.context:
                raise PairError(f"the query is too long: the model takes {self.context} tokens", index, fixed)
            ids = ids[: self.context - fixed]
        return PairInput([], self.bos + query + self.middle + ids + self.end, 1, [], [], b"", 0)


class RankLlama(Scorer):
    """The base model's body with a LoRA, and a linear layer without bias on the last token's hidden state.

    Args:
        base: the language model; its output layer is not used.
        config: the settings.
        lora: a LoRA that is in the model already; by default a fresh one.
    """

    def __init__(self, base: BaseModel, config: AdapterConfig, lora: Lora | None = None):
        super().__init__(base, config, lora)
        self.encoder = RankEncoder(base.tokenizer, config, base.context)
        self.score = nn.Linear(base.embeddings.weight.shape[1], 1, bias=False).to(base.device)
        self.train(False)

    def classifier(self) -> dict[str, Tensor]:
        return {SCORE: self.score.weight}

    def forward(self, batch: Batch) -> Tensor:
        """The score of each pair, [B], fp32, any number; higher is better."""
        put_to_work(self.model, self.lora)
        # Padded on the right, where a causal model needs no mask.
        hidden = body_of(self.model)(input_ids=batch.ids, use_cache=False).last_hidden_state
        rows = torch.arange(len(hidden), device=hidden.device)
        last = hidden[rows, batch.length.to(hidden.device) - 1]
        with torch.autocast(last.device.type, enabled=False):  # 8 bits cannot tell near scores apart
            return self.score(last.to(self.score.weight))[:, 0]


def open_checkpoint(folder: Path, base: BaseModel) -> RankLlama:
    """A peft LoRA of a sequence classification with one label, as RankLLaMA's checkpoints are.

    Raises:
        AdapterError: it is another kind of adapter, lacks the linear layer, or is of another model.
    """
    config, weights = read_peft_config(folder), read_weights(folder)
    if SCORE not in weights or weights[SCORE].shape[0] != 1:
        raise AdapterError(f"{folder} is no RankLLaMA: it has no {SCORE!r} for one label")
    settings = AdapterConfig(
        method="rankllama",
        layout="published",
        lora_rank=config.r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        lora_targets=() if isinstance(config.target_modules, str) else sorted(config.target_modules or ()),
    )
    config.modules_to_save = None  # our linear layer stands beside the model, not in it
    try:
        scorer = RankLlama(base, settings, Lora(base, config))
        scorer.put_weights(weights, folder)
    except (InputError, AdapterError) as error:
        raise AdapterError(f"{folder} does not fit the model {base.name!r}: {error}") from error
    return scorer
