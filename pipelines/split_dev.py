"""Make a dev split for a collection that has none: a twelfth of the train passages, with their topics.

    python pipelines/split_dev.py DATA OUTPUT

DATA has topics and qrels of train and test; OUTPUT gets those of train, dev and test. A passage is dev by the
SHA-1 of its docid: first eight hexadecimal digits modulo 10,000 below 833. That is how the training of the
packaged language model was kept from dev topics. Topics of passages relevant to a test topic are in neither.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

from qpeft_rerank.topics import read_topics, write_topics
from qpeft_rerank.trec import read_qrels, write_qrels

DEV_BELOW = 833


def digest(text: str) -> int:
    """A number from 0 to 9999 that depends on ``text`` alone."""
    return int(hashlib.sha1(text.encode()).hexdigest()[:8], 16) % 10_000


def is_dev(docid: str) -> bool:
    """Whether a passage of the train split, with its topics, is for development."""
    return digest(docid) < DEV_BELOW


def split(data: Path, output: Path) -> None:
    """Write topics and qrels of train, dev and test to ``output``."""
    topics, qrels = read_topics(data / "topics.train.tsv"), read_qrels(data / "qrels.train.txt")
    tested = {docid for grades in read_qrels(data / "qrels.test.txt").values() for docid in grades}
    parts: dict[str, set[str]] = {"train": set(), "dev": set()}
    for qid, grades in qrels.items():
        if not tested & grades.keys():
            kinds = {is_dev(docid) for docid in grades}
            if len(kinds) == 1:
                parts["dev" if kinds == {True} else "train"].add(qid)
    write_split(parts, topics, qrels, data, output)


def write_split(
    parts: Mapping[str, Collection[str]],
    topics: Mapping[str, str],
    qrels: Mapping[str, Mapping[str, int]],
    data: Path,
    output: Path,
) -> None:
    """Write topics and qrels of each part, in the order of ``topics``, and those of test as they are."""
    output.mkdir(parents=True, exist_ok=True)
    for name, qids in parts.items():
        chosen = [qid for qid in topics if qid in qids]
        write_topics({qid: topics[qid] for qid in chosen}, output / f"topics.{name}.tsv")
        write_qrels({qid: qrels[qid] for qid in chosen}, output / f"qrels.{name}.txt")
    for name in ("topics.test.tsv", "qrels.test.txt"):
        shutil.copyfile(data / name, output / name)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    split(Path(sys.argv[1]), Path(sys.argv[2]))
