"""BM25 gives the documents, order and scores of Pyserini's own commands."""

import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from qpeft_rerank.bm25 import build_index, search
from qpeft_rerank.corpora import contents_of, read_corpus
from qpeft_rerank.topics import read_topics
from qpeft_rerank.trec import Ranking

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "qpeft_rerank" / "demo" / "collection"
SQUAD = Path(os.environ.get("QPEFT_SQUAD", ROOT.parent / "shared" / "data" / "squad"))

# `python -m NAME ARGUMENTS` for each command, in one process with a JVM that needs no module
# jdk.incubator.vector.
PYSERINI = """
import json, runpy, sys
from qpeft_rerank.java import ensure_jvm
ensure_jvm()
for name, *arguments in json.loads(sys.argv[1]):
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name="__main__")
"""


def run_pyserini(*commands):
    env = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"} | {
        "PYTHONPATH": str(ROOT)
    }
    done = subprocess.run(
        [sys.executable, "-c", PYSERINI, json.dumps([[str(word) for word in c] for c in commands])],
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def as_pyserini_writes(ranking: Ranking):
    return [(doc.docid, f"{doc.score:.6f}") for doc in ranking.docs]


def read_as_written(path):
    rankings = {}
    for line in path.read_text().splitlines():
        qid, _, docid, _, score, _ = line.split()
        rankings.setdefault(qid, []).append((docid, score))
    return rankings


@pytest.mark.java
@pytest.mark.slow
@pytest.mark.parametrize("collection", ["demo", "squad"])
def test_documents_order_and_scores_are_pyserinis(tmp_path, collection):
    folder = DEMO if collection == "demo" else SQUAD
    if not folder.is_dir():
        pytest.skip(f"the collection is not there: {folder} (QPEFT_SQUAD names it)")
    corpus = folder / ("corpus.jsonl" if collection == "demo" else "corpus")
    topics = dict(islice(read_topics(folder / "topics.test.tsv").items(), 100))
    (tmp_path / "topics.tsv").write_text("".join(f"{qid}\t{text}\n" for qid, text in topics.items()))

    # Pyserini's own index of title and text, and ours
    (tmp_path / "json").mkdir()
    with open(tmp_path / "json" / "docs.jsonl", "w") as docs:
        for passage in read_corpus(corpus):
            docs.write(json.dumps({"id": passage.docid, "contents": contents_of(passage)}) + "\n")
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    build_index(corpus, ours, threads=2)

    index = [
        "pyserini.index.lucene",
        "--collection",
        "JsonCollection",
        "--generator",
        "DefaultLuceneDocumentGenerator",
        "--input",
        tmp_path / "json",
        "--index",
        theirs,
        "--threads",
        "1",
        "--storePositions",
        "--storeDocvectors",
        "--storeRaw",
    ]
    commands = [index] if collection == "demo" else []
    variants = {"default": {}, "settings": {"k1": 1.2, "b": 0.75}, "rm3": {"rm3": True}}
    for built in (ours, theirs):
        for variant, options in variants.items():
            if built is theirs and (variant == "settings" or collection == "squad"):
                continue  # that the indexes are alike is said by fewer
            flags = (
                ["--rm3"]
                if options.get("rm3")
                else ["--k1", options.get("k1", 0.9), "--b", options.get("b", 0.4)]
            )
            commands.append(
                [
                    "pyserini.search.lucene",
                    "--bm25",
                    "--index",
                    built,
                    "--topics",
                    tmp_path / "topics.tsv",
                    "--hits",
                    "100",
                    "--output",
                    tmp_path / f"{built.name}.{variant}.txt",
                    *flags,
                ]
            )
    run_pyserini(*commands)

    for variant, options in variants.items():
        expected = read_as_written(tmp_path / f"ours.{variant}.txt")
        found = {
            ranking.qid: as_pyserini_writes(ranking) for ranking in search(ours, topics, threads=2, **options)
        }
        assert {qid: docs for qid, docs in found.items() if docs} == expected
        assert sum(map(len, expected.values())) > 100
        if (tmp_path / f"theirs.{variant}.txt").exists():
            assert read_as_written(tmp_path / f"theirs.{variant}.txt") == expected
