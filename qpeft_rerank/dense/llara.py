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
Passages without a next one count for EBAE alone. Source of prompts, loss and weights: the authors' code,
FlagEmbedding, research/LLARA/pretrain (`data.py`, `modeling.py` at 98f209b). Ours differs in this:

* There the two prompts follow one another and are hidden from each other by a mask; here they are two rows,
  which any architecture can run, and which are to the letter what the encoder reads later.
* T are the tokens of the text as it stands, without stopwords (`models.inputs.STOPWORDS`, there NLTK's) and
  without tokens that have neither letter nor digit; there the words are joined again and tokenised anew.

Retrieval afterwards puts queries into the EBAR prompt (a passage that answers may well follow the query) and
passages into the EBAE prompt, and averages the eight states: the template ``llara`` of `config.TEMPLATES`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qpeft_rerank.dense.batches import pad
from qpeft_rerank.dense.config import TEMPLATES, EncoderConfig, Side
from qpeft_rerank.dense.inputs import SideInputs
from qpeft_rerank.dense.llara_config import LlaraConfig
from qpeft_rerank.dense.model_folder import save_model
from qpeft_rerank.dense.texts import Followed
from qpeft_rerank.errors import InputError
from qpeft_rerank.models import lora
from qpeft_rerank.models.base import BaseModel
from qpeft_rerank.models.config import AdapterConfig
from qpeft_rerank.models.inputs import MOST_CHARACTERS_PER_TOKEN, describe_tokens
from qpeft_rerank.models.row_head import RowHead
from qpeft_rerank.training.folder import check_folder
from qpeft_rerank.training.loop import Listener, fit


class LlaraBatch(NamedTuple):
    """Passages of a step: B in the EBAE prompt, then the same B in the EBAR prompt.

    Attributes:
        ids: [2B, T], padded on the right; length: [2B].
        marks: [2B * 8], flat places of the special tokens.
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


class Llara(nn.Module):
    """The language model in adaptation: all of it is trained, or a LoRA and the special tokens' vectors.

    Args:
        base: the language model; its tokenizer gets the special tokens, in place.
        config: the settings.
    """

    can_share = False

    def __init__(self, base: BaseModel, config: LlaraConfig):
        super().__init__()
        self.base, self.config = base, config
        template = TEMPLATES["llara"]
        marks = [*template["passage_marks"], *template["query_marks"]]
        _add_marks(base, marks)
        self.model, self._head = base.model, (RowHead.on(base.model),)
        limit = config.passage_tokens + 1  # the quotation mark in front counts
        self.sides = [
            SideInputs(base.tokenizer, side, base.context)
            for side in (
                Side(
                    template["passage_prefix"], template["passage_suffix"], template["passage_marks"], limit
                ),
                Side(template["query_prefix"], template["query_suffix"], template["query_marks"], limit),
            )
        ]
        self.lora: lora.Lora | None = None
        if config.lora_rank:
            settings = AdapterConfig("repllama", lora_rank=config.lora_rank, lora_targets=config.lora_targets)
            self.lora = lora.Lora.fresh(base, settings)
            _train_rows(base, base.tokenizer.convert_tokens_to_ids(marks))
        else:
            self.model.requires_grad_(True)
        self.eval()

    def train(self, mode: bool = True) -> Llara:
        """Dropout of the LoRA on or off; the model's own stays off, as in all trainings here."""
        super().train(mode)
        self.model.eval()
        if self.lora is not None:
            self.lora.train(mode)
        return self

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
            logits = self.model(input_ids=batch.ids, use_cache=False).logits[0].float()
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
        heads = [text[: most * MOST_CHARACTERS_PER_TOKEN].encode(errors="replace").decode() for text in texts]
        encoded = self.base.tokenizer(
            heads,
            add_special_tokens=False,
            split_special_tokens=True,
            verbose=False,
            return_offsets_mapping=True,
        )
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
        language, encoding, following = module(self.scorer.collate(examples))
        return self.config.lm_weight * language + self.config.bag_weight * (encoding + following) / 2

    def pair_scorer(self) -> Any:
        """None: a language model in adaptation reranks nothing."""
        raise InputError("llara: a model in adaptation reranks nothing")

    def save(self, folder: Path, card: Mapping[str, Any]) -> None:
        """Write a model folder; a LoRA is merged into it."""
        encoder = EncoderConfig.of("llara")
        facts = {"epoch": card["epoch"], **self.config.to_dict()}
        save_model(folder, self.scorer.base, self.scorer.lora, encoder, "LLaRA (arXiv 2312.15503)", facts)

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
        base: the language model; it is changed in place.
        texts: passages with the next ones (`texts.read_texts`).
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
    chosen = list(texts)
    if 0 < config.passages < len(chosen):
        chosen = random.Random(config.seed).sample(chosen, config.passages)
    if not chosen:
        raise InputError("there is no text to learn from")
    training = config.training()
    torch.manual_seed(training.seed)  # the special tokens' vectors, the same in every process
    objective = LlaraObjective(base, config)
    read = {"passages": len(texts), "passages_used": len(chosen)}
    return fit(objective, training, _shuffled(chosen, config.seed), output, None, listener, sources, read)


def _shuffled(texts: list[Followed], seed: int) -> Callable[[int], list[Followed]]:
    def epoch_texts(epoch: int) -> list[Followed]:
        return random.Random(f"{seed} {epoch}").sample(texts, len(texts))

    return epoch_texts


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
