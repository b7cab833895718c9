"""Exact search is dot products; the others find most of the same; Pyserini opens the folder."""

from __future__ import annotations

import json

import faiss
import numpy as np
import pytest

from qpeft_rerank.dense.config import EncoderConfig
from qpeft_rerank.dense.index import DenseIndexConfig, build_dense_index
from qpeft_rerank.dense.search import open_dense_index, search_dense, set_effort
from qpeft_rerank.dense.vectors import encode_corpus
from qpeft_rerank.errors import InputError
from qpeft_rerank.passages import Passage

DIMENSION, COUNT, HITS = 24, 1500, 10
TOPICS = {f"q{i}": f"query {i}" for i in range(20)}


class Known:
    """Gives each text a vector of its own; the vectors lie around 40 centres, as those of texts do."""

    config = EncoderConfig()
    dimension = DIMENSION

    def __init__(self, seed=0):
        self.seed = seed
        self.centres = np.random.default_rng(7).normal(size=(40, DIMENSION))

    def encode_queries(self, texts):
        return np.stack([self.vector(text) for text in texts])

    def encode_passages(self, passages, progress=None):
        return self.encode_queries([p.text for p in passages])

    def describe(self):
        return {"name": "known", "dtype": "float32", "settings": self.config.to_dict()}

    def vector(self, text):
        generator = np.random.default_rng([self.seed, *text.encode()])
        vector = self.centres[generator.integers(40)] + 0.4 * generator.normal(size=DIMENSION)
        return (vector / np.linalg.norm(vector)).astype(np.float32)


PASSAGES = [Passage(f"d{i:04}", "", f"passage {i}") for i in range(COUNT)]


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense") / "vectors"
    encode_corpus(PASSAGES, Known(), folder, shard_passages=400)
    return folder


@pytest.fixture(scope="module")
def flat(vectors, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense") / "flat"
    assert build_dense_index(vectors, folder) == COUNT
    return folder


@pytest.fixture(scope="module")
def expected():
    """docid -> score of the best by plain dot products, per topic."""
    known = Known()
    scores = known.encode_queries(list(TOPICS.values())) @ known.encode_passages(PASSAGES).T
    best = np.argsort(-scores, axis=1)[:, :HITS]
    return {qid: [(PASSAGES[i].docid, scores[q, i]) for i in best[q]] for q, qid in enumerate(TOPICS)}


def test_flat_search_is_numpys_dot_products(flat, expected):
    rankings = list(search_dense(flat, TOPICS, Known(), hits=HITS))
    assert [ranking.qid for ranking in rankings] == list(TOPICS)
    for ranking in rankings:
        assert [doc.docid for doc in ranking.docs] == [docid for docid, _ in expected[ranking.qid]]
        np.testing.assert_allclose(
            [doc.score for doc in ranking.docs], [score for _, score in expected[ranking.qid]], atol=1e-6
        )


@pytest.mark.parametrize(
    "config, least",
    [
        (DenseIndexConfig("hnsw", links=16, ef_construction=80), 0.98),
        (DenseIndexConfig("ivf-pq", lists=20, probes=20, subvectors=12), 0.7),
    ],
    ids=["hnsw", "ivf-pq"],
)
def test_approximate_search_finds_most_of_the_best(vectors, tmp_path, expected, config, least):
    build_dense_index(vectors, tmp_path / "index", config)
    rankings = search_dense(tmp_path / "index", TOPICS, Known(), hits=HITS)
    found = [
        len({doc.docid for doc in ranking.docs} & {docid for docid, _ in expected[ranking.qid]}) / HITS
        for ranking in rankings
    ]
    assert np.mean(found) >= least


def test_how_hard_an_index_looks_is_kept_in_it_and_can_be_changed(vectors, tmp_path, flat):
    build_dense_index(vectors, tmp_path / "hnsw", DenseIndexConfig("hnsw", ef_search=33))
    build_dense_index(vectors, tmp_path / "ivf", DenseIndexConfig("ivf-pq", lists=20, probes=3))
    graph, lists = open_dense_index(tmp_path / "hnsw"), open_dense_index(tmp_path / "ivf")
    assert (graph.faiss.hnsw.efSearch, lists.faiss.nprobe) == (33, 3)
    set_effort(graph, ef_search=50)
    set_effort(lists, probes=4)
    assert (graph.faiss.hnsw.efSearch, lists.faiss.nprobe) == (50, 4)
    with pytest.raises(InputError, match="ef_search: the index"):
        set_effort(open_dense_index(flat), ef_search=50)


def test_a_blank_topic_finds_nothing(flat):
    topics = {"a": "query 1", "b": " ", "c": "query 2"}
    found = {ranking.qid: ranking.docs for ranking in search_dense(flat, topics, Known(), hits=HITS)}
    whole = {ranking.qid: ranking.docs for ranking in search_dense(flat, TOPICS, Known(), hits=HITS)}
    assert list(found) == list(topics) and found["b"] == []
    assert found["a"] == whole["q1"] and found["c"] == whole["q2"]
    assert [ranking.docs for ranking in search_dense(flat, {"b": ""}, Known())] == [[]]


def test_threads_change_nothing(flat):
    one = list(search_dense(flat, TOPICS, Known(), hits=HITS))
    assert list(search_dense(flat, TOPICS, Known(), hits=HITS, threads=2)) == one


def test_equal_scores_stand_by_docid_descending(tmp_path):
    class Same(Known):
        def vector(self, text):
            return np.eye(1, DIMENSION, dtype=np.float32)[0]

    encode_corpus(PASSAGES[:5], Same(), tmp_path / "v")
    build_dense_index(tmp_path / "v", tmp_path / "i")
    (ranking,) = search_dense(tmp_path / "i", {"q": "x"}, Same(), hits=9)
    assert [doc.docid for doc in ranking.docs] == ["d0004", "d0003", "d0002", "d0001", "d0000"]


def test_the_passage_that_is_the_query_can_be_left_out(flat):
    topics = {"d0003": "passage 3", "d0004": "passage 4"}
    for ranking in search_dense(flat, topics, Known(), hits=5, remove_query=True):
        assert len(ranking.docs) == 5 and ranking.qid not in {doc.docid for doc in ranking.docs}


def test_another_encoder_than_the_indexs_is_an_error(flat):
    with pytest.raises(InputError, match="another encoder"):
        search_dense(flat, TOPICS, Known(seed=1))


@pytest.mark.parametrize(
    "config, word",
    [
        ({"kind": "ivf-pq", "subvectors": 7}, "subvectors: 7 is no divisor"),
        ({"kind": "ivf-pq", "lists": 2000}, "lists: 2000"),
        ({"kind": "ivf-pq", "train_vectors": 200}, "train_vectors: 200 are too few"),
        ({"kind": "ivf-pq", "lists": 400, "train_vectors": 390}, "the index needs 400"),
        ({"kind": "tree"}, "kind: 'tree'"),
        ({"links": 1}, "links: 1"),
    ],
)
def test_an_index_that_is_not_possible_is_an_error_and_no_folder(vectors, tmp_path, config, word):
    with pytest.raises(InputError, match=word):
        build_dense_index(vectors, tmp_path / "index", DenseIndexConfig(**config))
    assert not list(tmp_path.iterdir())


def test_an_index_is_replaced_only_when_asked(vectors, flat, tmp_path):
    with pytest.raises(InputError, match="--overwrite"):
        build_dense_index(vectors, flat)
    build_dense_index(vectors, flat, overwrite=True)
    (tmp_path / "mine.txt").write_text("text")
    with pytest.raises(InputError, match="not a dense index"):
        build_dense_index(vectors, tmp_path, overwrite=True)


def test_what_is_no_index_is_an_error(flat, tmp_path):
    with pytest.raises(InputError, match="no dense index"):
        open_dense_index(tmp_path)
    (tmp_path / "index").write_bytes(b"nothing")
    (tmp_path / "docid").write_text("a\n")
    with pytest.raises(InputError, match="Faiss cannot read it"):
        open_dense_index(tmp_path)
    faiss.write_index(faiss.IndexFlatIP(3), str(tmp_path / "index"))
    with pytest.raises(InputError, match="0 vectors, docid 1 ids"):
        open_dense_index(tmp_path)
    faiss.write_index(faiss.IndexFlatL2(3), str(tmp_path / "index"))
    with pytest.raises(InputError, match="by a distance"):
        open_dense_index(tmp_path)


def test_the_folder_says_how_it_was_made(flat):
    description = json.loads((flat / "dense.json").read_text())
    assert description["passages"] == COUNT and description["encoder"]["name"] == "known"
    assert description["settings"]["index"]["kind"] == "flat"


@pytest.mark.java
@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf-pq"])
def test_pyserinis_searcher_opens_the_folder_and_finds_the_same(vectors, tmp_path, kind):
    from qpeft_rerank.java import ensure_jvm

    ensure_jvm()  # before Pyserini is imported
    from pyserini.search.faiss import FaissSearcher

    class QueryEncoder:
        def encode(self, text):
            return Known().vector(text)

    build_dense_index(vectors, tmp_path / "index", DenseIndexConfig(kind))
    searcher = FaissSearcher(str(tmp_path / "index"), QueryEncoder())
    hits = searcher.batch_search(list(TOPICS.values()), list(TOPICS), k=HITS)
    for ranking in search_dense(tmp_path / "index", TOPICS, Known(), hits=HITS):
        pairs = sorted(((hit.score, hit.docid) for hit in hits[ranking.qid]), reverse=True)
        assert [doc.docid for doc in ranking.docs] == [docid for _, docid in pairs]
        np.testing.assert_allclose([d.score for d in ranking.docs], [s for s, _ in pairs], atol=1e-6)
