"""Pairs to score: made from the packaged collection, or read from a run of any collection."""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path

import qpeft_rerank
from qpeft_rerank.collection import load_collection
from qpeft_rerank.errors import InputError
from qpeft_rerank.passages import Passage, open_passages
from qpeft_rerank.topics import read_topics
from qpeft_rerank.trec import read_run

COLLECTION = Path(qpeft_rerank.__file__).parent / "demo" / "collection" / "collection.toml"
Pairs = list[tuple[str, Passage]]


def made_pairs(
    topics: int, depth: int, words: int = 100, seed: int = 0, passages: int | None = None
) -> Pairs:
    """Packaged questions, each with ``depth`` passages of about ``words`` words.

    A passage is a piece of the packaged corpus, read as one long text: of 80 to 120% of the words. No passage
    comes twice, or each topic's are drawn from as many ``passages``.
    """
    data = load_collection(COLLECTION)
    questions = list(read_topics(data.topics_of("test")).values())
    text = " ".join(passage.text for passage in corpus_passages()).split()
    draw = random.Random(seed)
    made = []
    for number in range(passages or topics * depth):
        length = max(1, round(words * draw.uniform(0.8, 1.2)))
        start = draw.randrange(len(text) - length)
        made.append(Passage(f"d{number}", "", " ".join(text[start : start + length])))
    pairs = []
    for topic in range(topics):
        own = draw.sample(made, depth) if passages else made[topic * depth : (topic + 1) * depth]
        pairs += [(questions[topic % len(questions)], passage) for passage in own]
    return pairs


def corpus_passages() -> list[Passage]:
    """The packaged passages."""
    corpus = open_passages(corpus=load_collection(COLLECTION).required("corpus"))
    return list(corpus.get([f"d{number:03d}" for number in range(1, 193)]).values())


def run_pairs(run: Path, collection: Path, split: str, topics: int, depth: int) -> Pairs:
    """The first candidates of the first topics of a run, topic by topic."""
    data = load_collection(collection)
    texts = read_topics(data.topics_of(split))
    source = open_passages(**data.passages())
    pairs = []
    for ranking in islice(read_run(run), topics):
        found = source.get([doc.docid for doc in ranking.docs[:depth]])
        pairs += [(texts[ranking.qid], found[doc.docid]) for doc in ranking.docs[:depth]]
    if not pairs:
        raise InputError(f"{run} has no candidates")
    return pairs
