"""A collection of eight passages and four topics, with a run, in a working folder of its own."""

import json
from pathlib import Path

import pytest

TINY_MODEL = Path(__file__).parents[1] / "parity" / "model"
TOPICS = {
    "1": "what do bees eat",
    "2": "how do bees dance",
    "3": "who paints walls",
    "007": "what is a waggle dance",
}
PASSAGES = {
    "a": ("Bees", "Bees eat nectar and pollen from flowers."),
    "b": ("Bees", "Bees dance to tell each other where flowers are."),
    "c": ("Dance", "A waggle dance is a figure of eight that a bee dances."),
    "d": ("Walls", "Painters paint walls with a roller."),
    "e": ("Walls", "A dry stone wall has no mortar."),
    "f": ("Flowers", "Flowers have pollen and nectar."),
    "g": ("Birds", "Some birds eat bees."),
    "h": ("Paint", "Paint is pigment in a binder."),
}
RELEVANT = {"1": "a", "2": "b", "3": "d", "007": "c"}


@pytest.fixture
def collection(tmp_path, monkeypatch):
    """A working folder with `small.toml` (splits test and dev), run.txt and the files that they name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.jsonl").write_text(
        "".join(
            json.dumps({"id": docid, "title": title, "contents": text}) + "\n"
            for docid, (title, text) in PASSAGES.items()
        )
    )
    (tmp_path / "topics.tsv").write_text("".join(f"{qid}\t{text}\n" for qid, text in TOPICS.items()))
    (tmp_path / "qrels.txt").write_text("".join(f"{qid} 0 {docid} 1\n" for qid, docid in RELEVANT.items()))
    (tmp_path / "run.txt").write_text(
        "".join(
            f"{qid} Q0 {docid} {rank} {10 - rank} bm25\n"
            for qid in TOPICS
            for rank, docid in enumerate(PASSAGES, 1)
        )
    )
    (tmp_path / "small.toml").write_text(
        'name = "small"\ncorpus = "corpus.jsonl"\nindex = "indexes/small"\n'
        + "".join(
            f"[{kind}]\n{''.join(f'{split} = {file!r}{chr(10)}' for split in ('train', 'dev', 'test'))}"
            for kind, file in (("topics", "topics.tsv"), ("qrels", "qrels.txt"))
        )
    )
    return tmp_path


@pytest.fixture
def tiny_model():
    """Folder of a causal language model of a few thousand weights."""
    return str(TINY_MODEL)
