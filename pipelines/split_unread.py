"""Split the dev topics of a collection in two, to train on topics that the packaged model has not read.

    python pipelines/split_unread.py DATA OUTPUT

The packaged language model read the train topics with their passages. It gives them a high likelihood
already, so that a module trained on them learns less (docs/experiments.md). DATA has topics and qrels of
dev and test; OUTPUT gets train (about half of dev or more), dev (the rest) and test as it is. Topics of one
article stay together: articles (docids without their last number) go, in the order of the SHA-1 of their
name, to the half that has fewer topics so far.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from split_dev import write_split

from qpeft_rerank.topics import read_topics
from qpeft_rerank.trec import read_qrels


def split(data: Path, output: Path) -> None:
    """Write topics and qrels of train, dev and test to ``output``."""
    topics, qrels = read_topics(data / "topics.dev.tsv"), read_qrels(data / "qrels.dev.txt")
    articles: dict[str, list[str]] = {}
    for qid, grades in qrels.items():
        articles.setdefault(min(grades).rsplit("-", 1)[0], []).append(qid)
    halves: dict[str, set[str]] = {"train": set(), "dev": set()}
    for article in sorted(articles, key=lambda name: hashlib.sha1(name.encode()).hexdigest()):
        min(halves.values(), key=len).update(articles[article])
    write_split(halves, topics, qrels, data, output)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    split(Path(sys.argv[1]), Path(sys.argv[2]))
