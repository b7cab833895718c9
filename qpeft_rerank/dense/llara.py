"""LLaRA: adapt a causal language model for dense retrieval, without labels (Li et al., arXiv 2312.15503).

A language model's last state says what token comes next; an embedding should say what a text is about. Two
tasks teach it so, both on plain text. The model reads a passage and eight special tokens,

    EBAE (auto-encoding):   "{passage}", summarize the above passage within eight words: <s1> ... <s8>
    EBAR (auto-regression): "{passage}", predict the following passage within eight words: <s9> ... <s16>

and the states at these tokens must name the words of the passage itself (EBAE) or of the next one (EBAR).
With z_i the logits of the i-th special token over the vocabulary V, and T the set of the target's tokens,

    bag(T) = - 1/|T| sum over t in T of log softmax( max over i of z_i )_t
    loss = LM + 1/10 * ( mean of bag(passage) + mean of bag(next passage) ) / 2

where LM is the mean next-token loss on the passage's own tokens, so that the model stays a language model.
Passages without a next one count for EBAE alone, and in a step that has only such ones the sum is not halved.
Source of prompts, loss and weights: the authors' code, FlagEmbedding, research/LLARA/pretrain (`data.py`,
`modeling.py` at 98f209b, read line by line; the template ``llara`` of `config.TEMPLATES`). Ours differs in
this:

* There the two prompts follow one another and are hidden from each other by a mask; here they are two rows,
  which any architecture can run, and which are to the letter what the encoder reads later.
* T are the tokens of the text as it stands, without stopwords (`models.inputs.STOPWORDS`, there NLTK's) and
  without tokens that have neither letter nor digit; there the words are joined again and tokenised anew.
* The special tokens' first vectors are drawn around the mean of the others'; there as transformers fills new
  rows.

The text of the paper (ACL 2024, and arXiv's second version) has other prompts, with one token each, the end
token, and no LM term. That is the template ``llara-paper``, with lm_weight 0 and bag_weight 2:

    EBAE: {passage} The input sentence is: </s>        EBAR: {passage} The next sentence is: </s>

There z is that token's logits, and the loss bag(passage) + bag(next passage), with T as above. This was not
compared with the paper itself, which was out of reach, but with two readers who quote it alike, one of them
asking the authors (FlagEmbedding's thread 1129). Of arXiv's first version one reader quotes "The original
sentence:" and "The next sentence:".

Retrieval afterwards puts queries into the EBAR prompt (a passage that answers may well follow the query) and
passages into the EBAE prompt, and takes the mean of the states at the special tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qpeft_rerank.dense.batches import pad
from qpeft_rerank.dense.inputs import SideInputs
from qpeft_rerank.dense.llara_config import LlaraConfig
from qpeft_rerank.dense.model_folder import save_model
from qpeft_rerank.dense.texts import Followed, Picked
from qpeft_rerank.errors import InputError
from qpeft_rerank.models import lora
from qpeft_rerank.models.base import BaseModel
from qpeft_rerank.models.config import AdapterConfig
from qpeft_rerank.models.inputs import MOST_CHARACTERS_PER_TOKEN, describe_tokens, tokenize
from qpeft_rerank.models.on_base import OnBaseModel
from qpeft_rerank.models.row_head import RowHead
from qpeft_rerank.training.folder import check_folder
from qpeft_rerank.training.loop import Listener, fit


class LlaraBatch(NamedTuple):
    """Passages of a step: B in the EBAE prompt, then the same B in the EBAR prompt.

    Attributes:
        ids: [2B, T], padded on the right; length: [2B].
        marks: [2B * 8], flat places of the special tokens (of the end tokens, [2B], where there are none).
        before, token: [L], flat place before each token of a passage (EBAE rows), and that token.
        row, target: [M], row and token of each member of a bag, in the order of the rows.
    """

    ids: Tensor
    length: Tensor
    marks: Tensor
    before: Tensor
    token: Tensor
    row: Tensor
    target: Tensor


class Llara(OnBaseModel):
    """The language model in adaptation: all of it is trained, or a LoRA and the special tokens' vectors.

    Args:
        base: the language model; its tokenizer gets the special tokens, in place.
        config: the settings.
    """

    def __init__(self, base: BaseModel, config: LlaraConfig):
        super().__init__(base)
        self.config = config
        texts = config.encoder()
        marks = [*texts.passage_marks, *texts.query_marks]
        _add_marks(base, marks)
        self.model, self._head = base.model, (RowHead.on(base.model),)
        self.sides = [
            SideInputs(
                base.tokenizer, side._replace(tokens=config.passage_tokens + len(side.prefix)), base.context
            )
            for side in (texts.passage, texts.query)
        ]
        if config.lora_rank:
            settings = AdapterConfig("repllama", lora_rank=config.lora_rank, lora_targets=config.lora_targets)
            self.lora = lora.Lora.fresh(base, settings)
            if marks:
                _train_rows(base, base.tokenizer.convert_tokens_to_ids(marks))
        else:
            self.model.requires_grad_(True)
        self.eval()

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by name."""
        own = {f"model.{name}": p for name, p in self.model.named_parameters() if p.requires_grad}
        if self.lora is None:
            return own
        return {name: p for name, p in own.items() if ".lora_" not in name} | self.lora.parameters()

    def forward(self, batch: LlaraBatch) -> Tensor:
        """LM, EBAE and EBAR loss, [3]: means over tokens and over passages."""
        lora.put_to_work(self.model, self.lora)
        head = self._head[0]
        head.rows = torch.cat([batch.marks, batch.before])
        try:
            logits = self.model(input_ids=batch.ids, use_cache=False).logits.squeeze(0).float()
        finally:
            head.rows = None
        rows, marks = len(batch.ids), len(batch.marks)
        bags = logits[:marks].view(rows, -1, logits.shape[1]).amax(dim=1).log_softmax(dim=1)
        members = torch.bincount(batch.row, minlength=rows)
        lost = bags.new_zeros(rows).index_add(0, batch.row, -bags[batch.row, batch.target])
        lost = lost / members.clamp(min=1)
        there = (members > 0).float()
        half = rows // 2
        auto = [
            lost[part].sum() / there[part].sum().clamp(min=1) for part in (slice(half), slice(half, None))
        ]
        return torch.stack([F.cross_entropy(logits[marks:], batch.token), *auto])

    def collate(self, examples: Sequence[Followed]) -> LlaraBatch:
        """The batch of these passages, on the model's device."""
        examples = list(examples)  # read once
        ends, rows = [], []
        for side in self.sides:
            rows += side.encode([example.text for example in examples])
            ends += [len(side.end)] * len(examples)
        ids, length = pad(rows, self.base.device)
        width = ids.shape[1]
        marks, before, token, row_of, target = [], [], [], [], []
        first, marked = len(self.sides[0].bos) + len(self.sides[0].prefix), self.sides[0].pooled
        for row, (row_ids, end) in enumerate(zip(rows, ends, strict=True)):
            marks += range(row * width + len(row_ids) - marked, row * width + len(row_ids))
            if row < len(examples):
                columns = range(max(first, 1), len(row_ids) - end)
                before += [row * width + column - 1 for column in columns]
                token += [row_ids[column] for column in columns]
        bags = self._bags([example.text for example in examples])
        bags += self._bags([example.following for example in examples])
        for row, bag in enumerate(bags):
            row_of += [row] * len(bag)
            target += bag
        tensors = (marks, before, token, row_of, target)
        on = [torch.tensor(values, dtype=torch.long, device=self.base.device) for values in tensors]
        return LlaraBatch(ids, length, *on)

    def _bags(self, texts: Sequence[str]) -> list[list[int]]:
        """The different tokens of each text that say something, sorted."""
        most = self.config.passage_tokens
        heads = [text[: most * MOST_CHARACTERS_PER_TOKEN] for text in texts]
        encoded = tokenize(self.base.tokenizer, heads, return_offsets_mapping=True)
        bags = []
        for text, ids, offsets in zip(heads, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            kept = describe_tokens(text, ids[:most], offsets[:most])
            says = [any(c.isalnum() for c in text[start:end]) for start, end in offsets[:most]]
            bags.append(
                sorted({i for i, stop, word in zip(kept.ids, kept.stopword, says) if word and not stop})
            )
        return bags


class LlaraObjective:
    """The loss of LLaRA and the model folder (an `training.objective.Objective`)."""

    def __init__(self, base: BaseModel, config: LlaraConfig):
        self.config = config
        self.scorer = self.module = Llara(base, config)

    def loss(self, module: nn.Module, examples: Sequence[Followed]) -> Tensor:
        """The weighted sum of the three."""
        language, *bags = module(self.scorer.collate(examples))
        tasks = sum(bag.detach().gt(0) for bag in bags)  # a step may have no passage with a next one
        return self.config.lm_weight * language + self.config.bag_weight * sum(bags) / tasks.clamp(min=1)

    def save(self, folder: Path, card: Mapping[str, Any]) -> None:
        """Write a model folder; a LoRA is merged into it."""
        scorer, facts = self.scorer, {"epoch": card["epoch"], **self.config.to_dict()}
        how = "LLaRA (arXiv 2312.15503)"
        save_model(folder, scorer.base, scorer.lora, self.config.encoder(), how, facts)

    def restore(self, folder: Path) -> None:
        """Nothing: the last epoch is kept, and is what the model is."""


def adapt(
    base: BaseModel,
    texts: Sequence[Followed],
    config: LlaraConfig,
    output: str | Path,
    resume: bool = False,
    listener: Listener | None = None,
    sources: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Adapt a language model on plain text and write it as a model folder, for RepLLaMA to start from.

    Args:
        base: the language model; it is changed in place, but for a LoRA, which leaves it at the end.
        texts: passages with the next ones (`texts.read_texts`); one step's are looked at at a time.
        config: the settings.
        output: the folder to write; it holds a checkpoint until the training is done.
        resume: go on from the folder's checkpoint.
        listener: hears of steps and epochs.
        sources: where the texts come from, JSON-ready: for the record, and a condition of resuming.

    Returns:
        The record, as it is written.

    Raises:
        InputError: there is no text, memory does not do for a step, or the folder cannot be written or holds
            a training that is not to be resumed.
    """
    check_folder(output, resume)
    if not texts:
        raise InputError("there is no text to learn from")
    places = np.arange(len(texts))
    if 0 < config.passages < len(places):
        places = np.random.default_rng(config.seed).choice(places, config.passages, replace=False)
    training = config.training()
    torch.manual_seed(training.seed)  # the special tokens' vectors, the same in every process
    objective = LlaraObjective(base, config)
    read = {"passages": len(texts), "passages_used": len(places)}

    def epoch_texts(epoch: int) -> Picked:
        return Picked(texts, np.random.default_rng([config.seed, epoch]).permutation(places))

    return fit(objective, training, epoch_texts, output, None, listener, sources, read)


def _add_marks(base: BaseModel, marks: list[str]) -> None:
    """Give tokenizer and model the special tokens; their vectors begin near the mean of all others."""
    there = base.tokenizer.get_vocab()
    new = [mark for mark in marks if mark not in there]  # a model that was adapted before keeps its own
    known = base.embeddings.weight.detach()[: len(base.tokenizer)].float()
    base.tokenizer.add_tokens(new, special_tokens=True)
    head = base.model.get_output_embeddings()
    if isinstance(head, RowHead):
        base.model.set_output_embeddings(head.head)
    if len(base.tokenizer) > len(base.embeddings.weight):
        base.model.resize_token_embeddings(len(base.tokenizer), mean_resizing=False)
    table = base.embeddings.weight
    with torch.no_grad():
        for mark in base.tokenizer.convert_tokens_to_ids(new):
            noise = torch.randn(table.shape[1]).to(table.device)
            table[mark] = (known.mean(dim=0) + noise * known.std(dim=0)).to(table.dtype)
    base.model.eval().requires_grad_(False)


def _train_rows(base: BaseModel, ids: list[int]) -> None:
    """Let these rows of the embedding table, and no others, change."""
    table = base.embeddings.weight.requires_grad_(True)
    mask = torch.zeros(len(table), 1, device=table.device)
    mask[ids] = 1
    table.register_hook(lambda gradient: gradient * mask.to(gradient.dtype))
