"""Runs are written so that every tool sees the order meant."""

import gzip
import io
import subprocess

import numpy as np
import pytest

from qpeft_rerank.errors import InputError
from qpeft_rerank.run_scores import shortest_digits, strictly_decreasing
from qpeft_rerank.trec import (
    Ranking,
    ScoredDoc,
    format_ranking,
    read_run,
    write_qrels,
    write_run,
)

RANKINGS = [
    Ranking("007", [ScoredDoc("d1", 3.5), ScoredDoc("d2", -0.001)]),
    Ranking("q2", [ScoredDoc("ü’", 7.0)]),
]


def rankings_of(text):
    return list(read_run(io.BytesIO(text.encode())))


def docids_of(text):
    return {qid: [doc.docid for doc in docs] for qid, docs in rankings_of(text)}


def test_a_written_run_has_six_columns_ranks_from_1_and_scores_that_decrease():
    ranking = Ranking("007", [ScoredDoc("a", 2.5), ScoredDoc("b", 2.5), ScoredDoc("c", -1)])
    lines = ["007 Q0 a 1 2.5 tag\n", "007 Q0 b 2 2.4999998 tag\n", "007 Q0 c 3 -1.0 tag\n"]
    assert format_ranking(ranking, "tag") == "".join(lines)
    assert format_ranking(Ranking("q", []), "tag") == ""


def test_writing_never_reorders():
    ranking = Ranking("q", [ScoredDoc("a", 1.0), ScoredDoc("b", 5.0), ScoredDoc("c", 0.5)])
    assert docids_of(format_ranking(ranking, "tag")) == {"q": ["a", "b", "c"]}


def test_a_written_run_is_read_again(tmp_path):
    assert write_run(iter(RANKINGS), tmp_path / "run.txt", "tag") == 2
    again = list(read_run(tmp_path / "run.txt"))
    assert [(qid, [doc.docid for doc in docs]) for qid, docs in again] == [
        ("007", ["d1", "d2"]),
        ("q2", ["ü’"]),
    ]
    write_run(again, tmp_path / "again.txt", "tag")
    assert (tmp_path / "again.txt").read_bytes() == (tmp_path / "run.txt").read_bytes()
    write_run(RANKINGS, tmp_path / "run.gz", "tag")
    assert gzip.decompress((tmp_path / "run.gz").read_bytes()) == (tmp_path / "run.txt").read_bytes()


def test_an_error_half_way_leaves_no_file(tmp_path):
    def rankings():
        yield RANKINGS[0]
        raise InputError("no more")

    with pytest.raises(InputError):
        write_run(rankings(), tmp_path / "run.txt", "tag")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "ranking, tag, message",
    [
        (Ranking("q 1", [ScoredDoc("d", 1.0)]), "tag", "a qid is empty or has white space"),
        (Ranking("", [ScoredDoc("d", 1.0)]), "tag", "a qid is empty"),
        (Ranking("q", [ScoredDoc("d\t1", 1.0)]), "tag", "a docid is empty or has white space"),
        (Ranking("q", [ScoredDoc("d", 1.0), ScoredDoc("", 0.5)]), "tag", "a docid is empty or comes twice"),
        (Ranking("q", [ScoredDoc("d", 1.0), ScoredDoc("d", 0.5)]), "tag", "a docid is empty or comes twice"),
        (Ranking("q", [ScoredDoc("d", 1.0)]), "my tag", "a tag is empty or has white space"),
        (Ranking("q", [ScoredDoc("d", float("nan"))]), "tag", "not a finite float32"),
        (Ranking("q", [ScoredDoc("d", 1e39)]), "tag", "not a finite float32"),
        (Ranking("q", [ScoredDoc("d", -3.4028234e38), ScoredDoc("e", -1.0)]), "tag", "cannot be told apart"),
    ],
)
def test_what_no_reader_could_read_is_not_written(ranking, tag, message):
    with pytest.raises(InputError, match=f"topic '{ranking.qid}': .*{message}"):
        format_ranking(ranking, tag)


def test_lowering_is_the_least_change():
    rng = np.random.default_rng(3)
    for _ in range(50):
        values = [0.0, -0.0, 1e-45, -1e-45, 1.0, -1.0, 3.4e38, rng.normal()]
        scores = rng.choice(values, size=rng.integers(1, 60))
        expected = [np.float32(scores[0])]
        for score in scores[1:].astype(np.float32):
            expected.append(min(score, np.nextafter(expected[-1], np.float32(-np.inf))))
        assert strictly_decreasing(scores).tolist() == [float(score) for score in expected]


def test_digits_are_the_fewest_that_give_the_float32_again():
    rng = np.random.default_rng(4)
    values = np.concatenate(
        [
            rng.integers(0, 2**32, 20_000, dtype=np.uint64).astype(np.uint32).view(np.float32),
            rng.normal(0, 20, 20_000).astype(np.float32),
            np.round(rng.normal(0, 20, 5_000), 4).astype(np.float32),
            np.array([0, -0.0, 1, 0.1, 1e-45, 3.4028235e38, 1e8, 16777216, 1e-13, 2.0**-126], np.float32),
        ]
    )
    values = values[np.isfinite(values)]
    texts = shortest_digits(values)
    assert np.array_equal(np.array(texts, dtype=np.float64).astype(np.float32), values)
    assert texts == [repr(float(str(value))) for value in values]


# The order that other tools see


def awkward_rankings():
    """Rankings that a careless writer would see reordered: docids go up where ties are broken downwards."""
    rng = np.random.default_rng(5)
    depth = 1000
    shapes = {
        "ordinary": np.sort(rng.normal(10, 5, depth))[::-1],
        "negative": np.sort(-rng.exponential(3, depth))[::-1],
        "all-ties": np.full(depth, 12.5),
        "ties-at-zero": np.zeros(depth),
        "blocks-of-ties": np.repeat(np.arange(10, 0, -1), depth // 10) - 5.0,
        "collide-in-float32": 25 - np.arange(depth) * 1e-9,
        "tiny-differences": -2 - np.arange(depth) * 1e-7,
        "tiny-numbers": 1e-40 - np.arange(depth) * 1e-43,
        "large-numbers": 1e30 - np.arange(depth) * 1e22,
        "rising": np.arange(depth) * 0.5,
        "bfloat16": -np.floor(np.linspace(2, 4, depth) * 64) / 64,
        "single": np.array([-0.0]),
    }
    for name, scores in shapes.items():
        docids = [f"d{n:04d}" for n in range(len(scores))]
        if name == "ordinary":
            docids = [f"ü{rng.integers(1e9)}-{docid}" for docid in docids]
        yield Ranking(name, list(map(ScoredDoc, docids, scores.tolist())))


def one_relevant_each(rankings):
    """A topic for each rank looked at: its only relevant document is the one there, so RR tells its rank."""
    for qid, docs in rankings:
        for rank in {1, 2, 3, 10, 500, len(docs) - 1, len(docs)} & set(range(1, len(docs) + 1)):
            yield f"{qid}/{rank}", docs[rank - 1].docid, rank, Ranking(f"{qid}/{rank}", docs)


def test_pytrec_eval_sees_every_document_at_its_rank():
    pytrec_eval = pytest.importorskip("pytrec_eval")
    for ranking in awkward_rankings():
        text = format_ranking(ranking, "tag")
        run = pytrec_eval.parse_run(text.splitlines())
        # Every document is graded by its rank: the gain is ideal only if all are in order.
        grades = {doc.docid: len(ranking.docs) - n for n, doc in enumerate(ranking.docs)}
        measures = pytrec_eval.RelevanceEvaluator({ranking.qid: grades}, {"ndcg"}).evaluate(run)
        assert measures[ranking.qid]["ndcg"] == pytest.approx(1, abs=1e-12), ranking.qid
        assert docids_of(text)[ranking.qid] == [doc.docid for doc in ranking.docs]


@pytest.mark.java
def test_the_trec_eval_that_pyserini_carries_sees_every_document_at_its_rank(tmp_path):
    from qpeft_rerank.java import anserini_jar, java_executable

    command = [str(java_executable()), "-cp", str(anserini_jar()), "trec_eval"]
    looked_at = list(one_relevant_each(awkward_rankings()))
    graded = [Ranking(f"{qid}/all", docs) for qid, docs in awkward_rankings()]
    write_run([*(ranking for *_, ranking in looked_at), *graded], tmp_path / "run.txt", "tag")
    qrels = {qid: {docid: 1} for qid, docid, _, _ in looked_at}
    for qid, docs in graded:
        qrels[qid] = {doc.docid: len(docs) - n for n, doc in enumerate(docs)}
    write_qrels(qrels, tmp_path / "qrels.txt")
    arguments = ["-q", "-c", "-m", "recip_rank", "-m", "ndcg", "-m", "num_ret", "qrels.txt", "run.txt"]
    done = subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    measured = {tuple(line.split()[:2]): float(line.split()[2]) for line in done.stdout.splitlines()}
    for qid, _, rank, ranking in looked_at:
        assert measured["num_ret", qid] == len(ranking.docs)
        assert measured["recip_rank", qid] == pytest.approx(1 / rank, abs=6e-5), qid  # 4 decimals are printed
    for qid, _ in graded:
        assert measured["ndcg", qid] == 1, qid
