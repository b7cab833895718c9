"""Development measures of the pretraining: plain text, questions, copying, and ranking squad dev."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pretrain_data import Records
from pretrain_rows import Document, Layout, pack
from tokenizers import Tokenizer
from torch import Tensor

# Ids and document numbers (rows, length) -> losses (rows, length - 1)
Losses = Callable[[Tensor, Tensor], Tensor]


class Development:
    """Fixed development documents and measures. ``shape``: rows and ids per row of the compiled function.

    They are the same for every run, whatever its seed: losses on other samples cannot be compared (on three
    samples of 120 questions of squad dev, one model had 2.48, 2.59 and 2.79 nats per token).
    """

    def __init__(self, folder: Path, shape: tuple[int, int]):
        self.shape = shape
        rng = np.random.default_rng(0)
        self.layout = layout = Layout(Tokenizer.from_file(str(folder / "tokenizer.json")))
        sets = {name: Records(folder, name) for name in ("plain-dev", "squad-dev", "nq-dev")}
        chosen = rng.permutation(len(sets["plain-dev"]))[:48]
        self.plain = [layout.plain(sets["plain-dev"][i][0][: self.shape[1] - 1]) for i in chosen]
        self.pairs: dict[str, list[Document]] = {}
        for name in ("squad-dev", "nq-dev"):
            records = [sets[name][i] for i in range(len(sets[name]))]  # one question of each passage
            self.pairs[name] = [self.ask(record[0], record[1]) for record in records]
        random = [rng.integers(3, layout.vocabulary, 40) for _ in range(24)]
        self.repeats = {
            "repeat-random": [layout.plain(np.concatenate([ids, ids])) for ids in random],
            "repeat-text": [
                layout.plain(np.concatenate([d.ids[1:81], d.ids[1:81]])) for d in self.plain[:24]
            ],
        }
        # 60 topics, each with its passage, 14 neighbours (mostly of the same article) and 5 from anywhere.
        squad = sets["squad-dev"]
        self.ranked: list[Document] = []
        for topic in rng.permutation(len(squad))[:60]:
            near = [i for i in range(max(0, topic - 10), min(len(squad), topic + 11)) if i != topic]
            near = list(rng.permutation(near)[:14])
            far = [int(i) for i in rng.permutation(len(squad)) if i != topic and i not in near][
                : 19 - len(near)
            ]
            question = squad[topic][1]
            self.ranked += [self.ask(squad[int(i)][0], question) for i in [topic, *near, *far]]

    def ask(self, passage: np.ndarray, question: np.ndarray) -> Document:
        """The document that the reranker scores; ``weights`` mark the tokens of the question and </s>."""
        document = self.layout.document(passage, [question])
        return Document(document.ids, (document.weights == 2.0).astype(np.float32))

    def losses(self, run: Losses, documents: Sequence[Document]) -> list[np.ndarray]:
        """Losses of each document's tokens (0 at the first), through rows of the training's shape."""
        rows: list[list[int]] = [[]]
        room = self.shape[1]
        for index in sorted(range(len(documents)), key=lambda i: len(documents[i].ids)):
            if len(documents[index].ids) > room:
                rows.append([])
                room = self.shape[1]
            rows[-1].append(index)
            room -= len(documents[index].ids)
        found: list[np.ndarray] = [np.zeros(0)] * len(documents)
        blank = Document(np.full(self.shape[1], 2), np.zeros(self.shape[1], np.float32))
        for first in range(0, len(rows), self.shape[0]):
            part = rows[first : first + self.shape[0]]
            packed = [pack([*(documents[i] for i in row), blank]) for row in part] + [pack([blank])] * (
                self.shape[0] - len(part)
            )
            ids = torch.from_numpy(np.stack([p[0][: self.shape[1]] for p in packed]))
            numbers = torch.from_numpy(np.stack([p[2][: self.shape[1]] for p in packed]))
            with torch.no_grad():
                losses = F.pad(run(ids, numbers), (1, 0)).numpy()
            for row, values in zip(part, losses, strict=False):
                place = 0
                for i in row:
                    found[i] = values[place : place + len(documents[i].ids)]
                    place += len(documents[i].ids)
        return found

    def measure(self, run: Losses, ranking: bool) -> dict[str, float]:
        """Mean losses in nats per token, and per question, which compares vocabularies; with ``ranking``, MRR
        and hit@1 of the gold passage among 20.
        """
        result = {"plain": float(np.mean(np.concatenate([x[1:] for x in self.losses(run, self.plain)])))}
        for name, documents in self.pairs.items():
            there, absent, all_losses = [], [], []
            for document, losses in zip(documents, self.losses(run, documents), strict=True):
                asked = document.weights > 0
                passage = set(document.ids[~asked].tolist())
                for token, loss in zip(document.ids[asked], losses[asked], strict=True):
                    all_losses.append(loss)
                    if token != self.layout.eos and self.layout.is_word[token]:
                        (there if int(token) in passage else absent).append(loss)
            result[name] = float(np.mean(all_losses))
            result[f"{name}:per question"] = float(np.sum(all_losses) / len(documents))
            result[f"{name}:words in passage"], result[f"{name}:other words"] = (
                float(np.mean(there)),
                float(np.mean(absent)),
            )
        for name, documents in self.repeats.items():
            second = [x[len(x) // 2 + 2 :] for x in self.losses(run, documents)]
            result[name] = float(np.mean(np.concatenate(second)))
        if ranking:
            losses = self.losses(run, self.ranked)
            scores = -np.array(
                [x[d.weights > 0].mean() for x, d in zip(losses, self.ranked, strict=True)]
            ).reshape(-1, 20)
            ranks = 1 + (scores[:, 1:] >= scores[:, :1]).sum(1)
            result["mrr of 20"], result["hit@1 of 20"] = float((1 / ranks).mean()), float((ranks == 1).mean())
        return {name: round(value, 4) for name, value in result.items()}
