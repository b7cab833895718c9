"""The embedded collection and model are what they say, and `run_demo` runs the whole chain on them."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open

from qpeft_rerank.collection import load_collection
from qpeft_rerank.corpora import read_corpus
from qpeft_rerank.demo import chain
from qpeft_rerank.errors import InputError
from qpeft_rerank.models.base import DEMO_MODEL
from qpeft_rerank.reranker import Reranker
from qpeft_rerank.topics import read_topics
from qpeft_rerank.trec import load_run, read_qrels

SPLITS = ("train", "dev", "test")


@pytest.fixture(scope="module")
def passages() -> dict:
    return {passage.docid: passage for passage in read_corpus(chain.COLLECTION.parent / "corpus.jsonl")}


def test_the_collection_is_large_enough_and_its_parts_fit(passages: dict) -> None:
    collection = load_collection(chain.COLLECTION)
    assert len(passages) >= 150
    all_topics: list[str] = []
    for split in SPLITS:
        topics, qrels = read_topics(collection.topics_of(split)), read_qrels(collection.qrels_of(split))
        assert set(topics) == set(qrels), "every topic is judged"
        for qid, grades in qrels.items():
            assert set(grades) <= set(passages), qid
            assert max(grades.values()) == 2, f"{qid} has a passage that answers it"
        all_topics += topics
    assert len(all_topics) == len(set(all_topics)) >= 60


def test_the_model_is_small_and_bf16() -> None:
    weights = DEMO_MODEL / "model.safetensors"
    assert weights.stat().st_size <= 16_000_000
    with safe_open(weights, "pt") as tensors:
        assert {tensors.get_slice(name).get_dtype() for name in tensors.keys()} == {"BF16"}
    assert "licence" in (DEMO_MODEL / "README.md").read_text(encoding="utf-8").lower()


def test_query_likelihood_of_the_model_clearly_beats_chance(passages: dict) -> None:
    """The relevant passage among 20 of the collection: by chance its mean reciprocal rank is 0.18."""
    collection = load_collection(chain.COLLECTION)
    topics, qrels = read_topics(collection.topics_of("train")), read_qrels(collection.qrels_of("train"))
    reranker, draw, reciprocal = Reranker.from_model("demo", device="cpu"), random.Random(0), []
    for qid, query in topics.items():
        relevant = max(qrels[qid], key=lambda docid: qrels[qid][docid])
        others = draw.sample([d for d in passages if qrels[qid].get(d, 0) == 0], 19)
        ranked = [doc.docid for doc in reranker.rerank(query, [passages[d] for d in [*others, relevant]])]
        reciprocal.append(1 / (1 + ranked.index(relevant)))
    assert sum(reciprocal) / len(reciprocal) > 0.45


@pytest.mark.java
@pytest.mark.slow
def test_the_demo_runs_the_chain_and_can_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "TRAINING", replace(chain.TRAINING, train_topics=4, dev_topics=2, epochs=1))
    monkeypatch.setattr(chain, "HITS", 5)
    told = "".join(chain.run_demo(tmp_path / "demo"))
    for word in ("bm25", "hard-prompt", "qpeft-r", "qpeft-a", "nDCG@10", "before", "after", "hints"):
        assert word in told
    for name in ("hard-prompt", "qpeft-r", "qpeft-a", "bm25+hard-prompt", "bm25+qpeft-r", "bm25+qpeft-a"):
        run = load_run(tmp_path / "demo" / f"run.demo.{name}.test.txt")
        assert len(run) == 64 and {len(ranking.docs) for ranking in run.values()} == {5}
    assert (tmp_path / "demo" / "differences.png").stat().st_size > 0
    again = "".join(chain.run_demo(tmp_path / "demo"))
    assert again.splitlines()[:-1] == told.splitlines()[:-1], "the same but for the time it took"


def test_the_demo_leaves_a_folder_that_is_not_its_own_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no earlier demo"):
        next(chain.run_demo(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_demo_that_was_killed_at_its_start_may_be_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        (tmp_path / "demo" / ".index.building-x").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(chain, "build_index", killed)
    with pytest.raises(KeyboardInterrupt):
        next(chain.run_demo(tmp_path / "demo"))
    monkeypatch.setattr(chain, "build_index", lambda *_, **__: 192)
    assert next(chain.run_demo(tmp_path / "demo")).startswith("index     192 passages")
