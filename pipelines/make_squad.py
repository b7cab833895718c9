"""Make the squad collection of this project's figures from the public SQuAD 1.1 development set.

    python pipelines/make_squad.py dev-v1.1.json squad

Every paragraph is a passage, every question a topic, the paragraph it was written on is relevant. Splits are
by article, so that no article lends questions to two: titles sorted by their SHA-1, the first 60 % train, the
next 15 % dev, the last 25 % test.
SQuAD: Rajpurkar et al., EMNLP 2016, CC BY-SA 4.0.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import json
import re
import unicodedata
from pathlib import Path


def clean(text: str) -> str:
    """HTML entities resolved, runs of white space one blank, Unicode NFC."""
    return unicodedata.normalize("NFC", " ".join(html.unescape(text).split()))


def split_of(titles: list[str]) -> dict[str, str]:
    """train, dev or test for each article."""
    ordered = sorted(titles, key=lambda title: hashlib.sha1(title.encode()).hexdigest())
    train, dev = round(0.6 * len(ordered)), round(0.15 * len(ordered))
    return {
        title: "train" if n < train else "dev" if n < train + dev else "test"
        for n, title in enumerate(ordered)
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="dev-v1.1.json")
    parser.add_argument("output", type=Path, help="folder to make")
    options = parser.parse_args()
    articles = {
        a["title"]: a["paragraphs"] for a in json.loads(options.source.read_text(encoding="utf-8"))["data"]
    }
    (options.output / "corpus").mkdir(parents=True, exist_ok=True)
    splits = split_of(list(articles))
    topics: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    qrels: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    with (options.output / "corpus" / "docs.jsonl").open("w", encoding="utf-8") as corpus:
        for title in sorted(articles):
            for number, paragraph in enumerate(articles[title]):
                docid = f"{re.sub('[^A-Za-z0-9]+', '_', title).strip('_')}-{number:02d}"
                passage = {
                    "id": docid,
                    "title": clean(title.replace("_", " ")),
                    "contents": clean(paragraph["context"]),
                }
                corpus.write(json.dumps(passage, ensure_ascii=False) + "\n")
                for question in paragraph["qas"]:
                    topics[splits[title]].append(f"{question['id']}\t{clean(question['question'])}\n")
                    qrels[splits[title]].append(f"{question['id']} 0 {docid} 1\n")
    for split in topics:
        (options.output / f"topics.{split}.tsv").write_text("".join(topics[split]), encoding="utf-8")
        (options.output / f"qrels.{split}.txt").write_text("".join(qrels[split]), encoding="utf-8")


if __name__ == "__main__":
    main()
