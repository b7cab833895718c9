"""Training text of the packaged small language model: what it reads, read once and written as token ids.

The model serves a reranker that scores log P(query | passage), so nearly everything it reads has the
reranker's layout (``pretrain_rows.py``). Five kinds of document:

* ``real``: a passage with the questions that people asked about it;
* ``pseudo``: a passage of plain text with questions cut from it (spans, or its rarer words): they teach
  copying;
* ``repeat``: random tokens said twice, most of them at the start of the training;
* ``plain``: a stretch of running text, which also fills what is left of a row;
* ``question``: questions without a passage.

Kept out: every squad and nq-qed passage that is gold for a dev or test topic, and their topics. A twelfth of
the nq-qed train passages (chosen by the SHA-1 of the docid) is held out with its topics for development.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from split_dev import digest, is_dev
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from qpeft_rerank.models.config import AdapterConfig

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
PASSAGE_TOKENS = AdapterConfig().passage_tokens  # the reranker cuts passages here
QUESTION_TOKENS = 48
# Share of each text group's documents that is used: health is formulaic, technical is far from what users
# search.
TEXT_SHARE = {"health": 0.35, "technical": 0.3, "us-gov": 0.5, "books": 0.6, "factbook": 0.6}
QUESTION_STARTS = (
    "what is the",
    "what",
    "who",
    "when did",
    "where is",
    "how many",
    "how did",
    "which",
    "why did",
    "in what year",
)


class Pair(NamedTuple):
    """A passage (title, blank, text) and questions on it."""

    passage: str
    questions: list[str]


class Split(NamedTuple):
    """Pairs of the training data, pairs for development, and passages that may be read as plain text."""

    train: list[Pair]
    dev: list[Pair]
    passages: list[str]


def read_jsonl(path: Path) -> list[dict]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def with_title(title: str | None, text: str) -> str:
    return f"{title} {text}" if title else text


def read_collection(folder: Path) -> Split:
    """squad: train and dev topics as given. nq-qed, which has no dev split: train topics, a twelfth held out
    as dev."""
    docs = {
        d["id"]: with_title(d["title"], d["contents"]) for d in read_jsonl(folder / "corpus" / "docs.jsonl")
    }
    asked: dict[str, dict[str, list[str]]] = {}
    for split in ("train", "dev", "test"):
        topics, qrels = folder / f"topics.{split}.tsv", folder / f"qrels.{split}.txt"
        asked[split] = {}
        if topics.exists():
            texts = dict(line.split("\t", 1) for line in topics.read_text(encoding="utf-8").splitlines())
            for line in qrels.read_text(encoding="utf-8").splitlines():
                qid, _, docid, _ = line.split()
                asked[split].setdefault(docid, []).append(texts[qid])
    closed = set(asked["test"]) | set(asked["dev"])
    if not asked["dev"]:
        held = {docid for docid in asked["train"] if is_dev(docid)}
        asked["dev"] = {docid: asked["train"][docid] for docid in held - closed}
        closed |= held
    train = [
        Pair(docs[docid], texts) for docid, texts in sorted(asked["train"].items()) if docid not in closed
    ]
    dev = [Pair(docs[docid], texts) for docid, texts in sorted(asked["dev"].items())]
    return Split(train, dev, [pair.passage for pair in train])


def read_questions(folder: Path) -> tuple[list[Pair], list[str]]:
    """The question files: pairs, and questions without a passage. Templated MedQuAD questions are thinned
    out."""
    by_passage: dict[str, list[str]] = {}
    alone: list[str] = []
    for path in sorted(folder.glob("*.jsonl")):
        for row in read_jsonl(path):
            if path.stem == "medquad" and digest(row["question"]) >= 2500:
                continue
            if row.get("passage"):
                passage = with_title(row.get("title"), row["passage"])
                by_passage.setdefault(passage, []).append(row["question"])
            else:
                alone.append(row["question"].replace(" 's", "'s"))
    return [Pair(passage, texts) for passage, texts in sorted(by_passage.items())], alone


def read_text(folder: Path) -> Iterator[list[str]]:
    """Documents of the plain-text shards as lists of paragraphs."""
    for path in sorted(folder.glob("*.txt.gz")):
        share = TEXT_SHARE.get(path.name.rsplit("-", 1)[0], 1.0) * 10_000
        for document in gzip.decompress(path.read_bytes()).decode("utf-8").split("\n\n"):
            if document.strip() and digest(document[:200]) < share:
                yield document.strip().split("\n")


def cut_passages(document: Sequence[str], words: int) -> list[str]:
    """A document's paragraphs joined to passages of up to about ``words`` words; a short first line is their
    title."""
    titled = len(document) > 1 and len(document[0].split()) <= 10
    title, paragraphs = (document[0], document[1:]) if titled else (None, document)
    passages, text, size = [], [], 0
    for paragraph in paragraphs:
        length = len(paragraph.split())
        if text and size + length > words:
            passages.append(with_title(title, " ".join(text)))
            text, size = [], 0
        text.append(paragraph)
        size += length
    return passages + [with_title(title, " ".join(text))]


def pseudo_questions(
    passage: str, frequency: Counter[str], rng: np.random.Generator, count: int
) -> list[str]:
    """Questions made from a passage: a span of it, or its rarer words in order or shuffled, after a
    question's start."""
    words = passage.split()[: int(PASSAGE_TOKENS * 0.6)]
    content = [
        i for i, w in enumerate(words) if frequency[w.lower().strip(".,;:()\"'")] < 3000 and len(w) > 2
    ]
    questions = []
    for _ in range(count):
        kind = rng.random()
        if kind < 0.4 or len(content) < 4:
            length = int(rng.integers(4, 13))
            start = int(rng.integers(0, max(1, len(words) - length)))
            text = " ".join(words[start : start + length])
        else:
            near = int(
                rng.integers(0, len(content))
            )  # words of one neighbourhood, as a question about one fact has
            pool = content[max(0, near - 5) : near + 6]
            chosen = rng.permutation(pool)[: int(rng.integers(2, 6))]
            picked = [words[i].strip(".,;:()\"'") for i in (sorted(chosen) if rng.random() < 0.6 else chosen)]
            start = QUESTION_STARTS[int(rng.integers(len(QUESTION_STARTS)))] + " " if kind < 0.8 else ""
            text = start + " ".join(picked)
        if rng.random() < 0.4:
            text = text.lower()
        if rng.random() < 0.5:
            text = text[:1].upper() + text[1:].rstrip(".,;:") + "?"
        questions.append(text)
    return questions


def train_tokenizer(texts: Iterator[str], vocabulary: int) -> Tokenizer:
    """Byte-level BPE with <s>, </s>, <pad> as ids 0, 1, 2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[BOS, EOS, PAD], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


class Records:
    """Token ids on disk: each record is a passage followed by its questions. One uint16 file, two offset
    files."""

    def __init__(self, folder: Path, name: str):
        self.ids = np.load(folder / f"{name}.ids.npy", mmap_mode="r")
        self.offsets = np.load(folder / f"{name}.offsets.npy")
        self.starts = np.load(folder / f"{name}.starts.npy")

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> list[np.ndarray]:
        a, b = int(self.starts[index]), int(self.starts[index + 1])
        return [self.ids[self.offsets[i] : self.offsets[i + 1]] for i in range(a, b)]

    @staticmethod
    def write(folder: Path, name: str, pairs: Sequence[Pair], tokenizer: Tokenizer) -> int:
        parts, starts = [], [0]
        for first in range(0, len(pairs), 5000):
            texts = []
            for pair in pairs[first : first + 5000]:
                texts += [pair.passage, *pair.questions]
                starts.append(starts[-1] + 1 + len(pair.questions))
            parts += [
                np.array(e.ids, np.uint16) for e in tokenizer.encode_batch(texts, add_special_tokens=False)
            ]
        np.save(folder / f"{name}.ids.npy", np.concatenate(parts))
        np.save(folder / f"{name}.offsets.npy", np.cumsum([0, *map(len, parts)]))
        np.save(folder / f"{name}.starts.npy", np.array(starts))
        return sum(map(len, parts))


def prepare(data: Path, folder: Path, vocabulary: int, seed: int) -> None:
    """Read everything once, train the tokenizer, and write ids (about three minutes)."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    squad, nq = read_collection(data / "squad"), read_collection(data / "nq-qed")
    pairs, alone = read_questions(data / "questions")
    documents = list(read_text(data / "text"))
    train_documents = [d for d in documents if digest(d[-1]) >= 50]
    dev_documents = [d for d in documents if digest(d[-1]) < 50]

    sample = ["\n".join(d) for i, d in enumerate(train_documents) if i % 4 == 0]
    real = squad.train + nq.train + pairs
    texts = sample + alone + [text for pair in real for text in (pair.passage, *pair.questions)]
    tokenizer = train_tokenizer(iter(texts), vocabulary)
    tokenizer.save(str(folder / "tokenizer.json"))

    frequency = Counter(re.findall(r"[\w'-]+", " ".join(texts).lower()))
    passages = [p for d in train_documents for p in cut_passages(d, int(rng.choice([60, 100, 160])))]
    passages = [p for p in passages if len(p.split()) >= 12]
    pseudo = [
        Pair(p, pseudo_questions(p, frequency, rng, 4)) for p in passages + squad.passages + nq.passages
    ]
    dev_text = [Pair(p, []) for d in dev_documents for p in cut_passages(d, 160) if len(p.split()) >= 60]
    sets = {
        "pseudo": pseudo,
        "real": real,
        "question": [Pair(q, []) for q in alone],
        "plain-dev": dev_text,
        "squad-dev": squad.dev,
        "nq-dev": nq.dev,
    }
    counts = {
        name: {
            "records": len(rows),
            "tokens": Records.write(folder, name, rows, tokenizer),
            "questions": sum(len(pair.questions) for pair in rows),
        }
        for name, rows in sets.items()
    }
    (folder / "data.json").write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
