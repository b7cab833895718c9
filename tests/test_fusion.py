"""Fused runs: the scores of pyserini.fusion, the ties of trec_eval, no topic or document lost."""

from __future__ import annotations

import doctest
import io
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from qpeft_rerank import fusion
from qpeft_rerank.errors import InputError
from qpeft_rerank.fusion import FusionConfig, fuse, normalized
from qpeft_rerank.trec import Ranking, ScoredDoc, read_run, write_run


def ranking(qid: str, **scores: float) -> Ranking:
    return Ranking(qid, [ScoredDoc(docid, score) for docid, score in scores.items()])


def order(found: Ranking) -> str:
    return "".join(doc.docid for doc in found.docs)


def fused(*rankings: Ranking, hits: int | None = None, **settings: object) -> dict[str, float]:
    """Document -> score of one topic, best first."""
    (found,) = fuse([[one] for one in rankings], FusionConfig(**settings), hits)
    return dict(found.docs)


BEES = ranking("1", a=9.0, b=7.0, c=5.0)
WASPS = ranking("1", c=0.5, d=0.25)


# ---- normalization ----


def test_min_max_runs_from_0_to_1_and_z_score_has_mean_0_and_deviation_1() -> None:
    scores = np.array([9, 7, 3, 1], dtype=np.float32)
    assert normalized(scores, "min-max").tolist() == [1, 0.75, 0.25, 0]
    found = normalized(scores, "z-score")
    assert found.dtype == np.float64
    assert found.mean() == pytest.approx(0) and found.std() == pytest.approx(1)
    assert normalized(scores, "none").tolist() == scores.tolist()


@pytest.mark.parametrize("kind, value", [("min-max", 1), ("z-score", 0), ("none", 3.1)])
def test_equal_scores_stay_equal(kind: str, value: float) -> None:
    assert normalized(np.full(3, 3.1), kind).tolist() == [value] * 3
    assert normalized(np.empty(0), kind).tolist() == []


def test_an_unknown_normalization_is_an_error() -> None:
    with pytest.raises(InputError, match="'max' is not one of min-max, z-score, none"):
        normalized(np.ones(2), "max")


# ---- what a document gets ----


def test_reciprocal_ranks_add_up() -> None:
    assert fused(BEES, WASPS) == {
        "c": pytest.approx(1 / 63 + 1 / 61),
        "a": 1 / 61,
        "d": 1 / 62,
        "b": 1 / 62,
    }
    assert fused(BEES, WASPS, rrf_k=0, weights=(1, 3))["c"] == pytest.approx(1 / 3 + 3)


def test_interpolation_weighs_normalized_scores() -> None:
    found = fused(BEES, WASPS, method="interpolation", weights=(0.25, 0.75))
    assert found == {"c": 0.75, "a": 0.25, "b": 0.125, "d": 0}
    assert fused(BEES, WASPS, method="interpolation", normalize="none") == {
        "a": 4.5,
        "b": 3.5,
        "c": 2.75,
        "d": 0.125,
    }


def test_what_a_run_lacks_never_counts_more_than_what_it_has() -> None:
    likelihoods = ranking("1", a=-1.0, b=-3.0)
    found = fused(likelihoods, WASPS, method="interpolation", normalize="none", weights=(1, 1))
    assert found == {"a": -1.0, "c": -2.5, "d": -2.75, "b": -3.0}
    z = fused(BEES, WASPS, method="interpolation", normalize="z-score", weights=(1, 0))
    assert z["d"] == z["c"] < z["b"] < z["a"]


def test_the_depth_cuts_each_run_and_hits_the_result() -> None:
    assert set(fused(BEES, WASPS, depth=1)) == {"a", "c"}
    # As in Pyserini, the scores are normalized over the whole list.
    assert fused(BEES, WASPS, method="interpolation", depth=2, weights=(1, 1)) == {
        "c": 1,
        "a": 1,
        "b": 0.5,
        "d": 0,
    }
    assert list(fused(BEES, WASPS, hits=2)) == ["c", "a"]


def test_scores_that_are_equal_as_float32_are_ties_as_in_trec_eval() -> None:
    one, two, three = ranking("1", a=3, b=2, c=1), ranking("1", b=3, c=2, a=1), ranking("1", c=3, a=2, b=1)
    # 1/61 + 1/62 + 1/63 in three orders: float64 sums differ, and would decide.
    assert list(fused(one, two, three)) == ["c", "b", "a"]
    close = ranking("1", a=1 + 1e-9, b=1.0)
    assert list(fused(close, close, method="interpolation", normalize="none")) == ["b", "a"]


def test_rankings_may_be_plain_pairs() -> None:
    (found,) = fuse([[("1", [("a", 2.0), ("b", 1.0)])], [ranking("1", b=3, a=1)], [("1", [("b", 1)])]])
    assert order(found) == "ba"


def test_a_written_run_reads_back_in_the_same_order() -> None:
    draw = random.Random(5)
    runs = [
        [
            Ranking(
                "1", [ScoredDoc(f"d{n}", 1.0 / rank) for rank, n in enumerate(draw.sample(range(60), 40), 1)]
            )
        ]
        for _ in range(3)
    ]
    found = list(fuse(runs))
    text = io.StringIO()
    write_run(found, text, "rrf")
    text.seek(0)
    (read,) = read_run(text)
    assert order(read) == order(found[0])


@pytest.mark.parametrize("kind", ["min-max", "z-score"])
@pytest.mark.parametrize("score", [1.0, 0.0, -3.25, 17.77])
def test_equal_scores_stay_equal_through_a_written_run(kind: str, score: float) -> None:
    equal = ranking("1", **{f"d{n}": score for n in range(50)})
    text = io.StringIO()
    write_run([equal], text, "equal")
    text.seek(0)
    (read,) = read_run(text)
    scores = np.array([doc.score for doc in read.docs])
    assert len(set(scores)) == 50, "they are told apart in writing"
    assert len(set(normalized(scores, kind))) == 1
    scores[0] = np.nextafter(np.nextafter(np.float32(scores[0]), np.float32(9e9)), np.float32(9e9))
    assert len(set(normalized(scores, kind))) == 50, "two steps apart: a real difference"


# ---- topics ----


def test_topics_of_one_run_only_are_kept_and_come_last() -> None:
    one = [ranking("1", a=2), ranking("2", a=1), ranking("3", a=1)]
    two = [ranking("0", b=1), ranking("1", b=1), ranking("3", b=1)]
    assert [(r.qid, order(r)) for r in fuse([one, two])] == [("1", "ba"), ("3", "ba"), ("0", "b"), ("2", "a")]


def test_the_order_of_topics_does_not_matter() -> None:
    rankings = [ranking(str(n), a=n + 2, b=1) for n in range(5)]
    other = [ranking(str(n), b=9, c=n + 1) for n in range(5)]
    ordered = {r.qid: r for r in fuse([rankings, other])}
    assert {r.qid: r for r in fuse([rankings[::-1], other])} == ordered


def test_runs_are_read_as_they_are_needed() -> None:
    read = [0, 0]

    def run(place: int) -> Iterator[Ranking]:
        for n in range(50):
            read[place] += 1
            yield ranking(str(n), a=1)

    list(islice(fuse([run(0), run(1)]), 7))
    assert read == [7, 7]


def test_what_cannot_be_fused_is_an_error() -> None:
    with pytest.raises(InputError, match="two runs or more, not 1"):
        list(fuse([[BEES]]))
    with pytest.raises(InputError, match="run 2 of 2 is empty"):
        list(fuse([[BEES], []]))
    with pytest.raises(InputError, match="no topic in common.*'1', '2'"):
        list(fuse([[BEES], [ranking("2", a=1)]]))
    with pytest.raises(InputError, match="topic '1' comes twice in run 1"):
        list(fuse([[BEES, BEES], [WASPS]]))
    with pytest.raises(InputError, match="topic '1' has a document twice"):
        list(fuse([[Ranking("1", BEES.docs * 2)], [WASPS]]))
    with pytest.raises(InputError, match="3 weights for 2 runs"):
        fuse([[BEES], [WASPS]], FusionConfig(weights=(1, 2, 3)))


@pytest.mark.parametrize(
    "settings, word",
    [
        ({"method": "combmnz"}, "method: 'combmnz'"),
        ({"normalize": "max"}, "normalize: 'max'"),
        ({"rrf_k": -1}, "rrf_k: -1"),
        ({"depth": 0}, "depth: 0"),
        ({"weights": (1, -0.5)}, "-0.5"),
        ({"weights": (0, 0)}, "above 0"),
        ({"weights": (1, float("nan"))}, "nan"),
        ({"weights": ("a", "b")}, "weights: 'a' is not a number"),
    ],
)
def test_impossible_settings_are_errors_that_name_them(settings: dict, word: str) -> None:
    with pytest.raises(InputError, match=word):
        FusionConfig(**settings)


def test_the_examples_hold() -> None:
    assert doctest.testmod(fusion).failed == 0


# ---- as Pyserini ----


@pytest.fixture(scope="module")
def run_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of 30 topics: some of one run only, some of one document, many equal scores."""
    draw = random.Random(7)
    files = []
    for place, topics in enumerate((range(28), range(3, 30))):
        lines = []
        for topic in topics:
            count = 1 if topic % 9 == 0 else draw.randrange(2, 40)
            docids = draw.sample(range(60), count)
            scores = sorted((round(draw.uniform(0, 20), 1) for _ in docids), reverse=True)
            # Equal scores stand in trec_eval's order, as every tool writes them that we have seen.
            ranked = sorted(zip(scores, (f"d{n}" for n in docids)), reverse=True)
            lines += [f"q{topic} Q0 {d} {rank} {score} tag\n" for rank, (score, d) in enumerate(ranked, 1)]
        files.append(tmp_path_factory.mktemp("runs") / f"run.{place}.txt")
        files[-1].write_text("".join(lines))
    return files


PYSERINI = [
    ("reciprocal_rank_fusion", {"rrf_k": 60}, {}),
    ("reciprocal_rank_fusion", {"rrf_k": 10}, {"rrf_k": 10}),
    (
        "interpolation",
        {"alpha": 0.3},
        {"method": "interpolation", "normalize": "none", "weights": (0.3, 1 - 0.3)},
    ),
    ("average", {}, {"method": "interpolation", "normalize": "none"}),
    ("normalize", {}, {"method": "interpolation", "weights": (1, 1)}),
]


@pytest.mark.parametrize("depth", [None, 5])
@pytest.mark.parametrize("name, theirs, ours", PYSERINI, ids=[f"{p[0]}-{i}" for i, p in enumerate(PYSERINI)])
def test_scores_are_those_of_pyserini(
    run_files: list[Path], name: str, theirs: dict, ours: dict, depth: int | None
) -> None:
    pyserini = pytest.importorskip("pyserini.fusion")
    from pyserini.trectools import TrecRun

    frame = getattr(pyserini, name)(
        [TrecRun(str(file)) for file in run_files], depth=depth, **theirs
    ).run_data
    expected: dict[str, dict[str, float]] = {}
    for qid, docid, score in zip(frame["topic"], frame["docid"], frame["score"]):
        expected.setdefault(qid, {})[docid] = score
    found = list(fuse([read_run(file) for file in run_files], FusionConfig(depth=depth, **ours)))
    assert {qid for qid, _ in found} == expected.keys() and len(expected) == 30
    for qid, docs in found:
        assert dict(docs) == pytest.approx(expected[qid], rel=1e-12, abs=1e-12)
        as_trec_eval = sorted(((np.float32(score), d) for d, score in expected[qid].items()), reverse=True)
        assert [doc.docid for doc in docs] == [docid for _, docid in as_trec_eval]


def test_the_best_hits_are_those_of_pyserini(run_files: list[Path]) -> None:
    pyserini = pytest.importorskip("pyserini.fusion")
    from pyserini.trectools import TrecRun

    frame = pyserini.reciprocal_rank_fusion([TrecRun(str(file)) for file in run_files], k=10).run_data
    runs = [read_run(file) for file in run_files]
    found = {qid: [doc.score for doc in docs] for qid, docs in fuse(runs, hits=10)}
    for qid, group in frame.groupby("topic"):
        assert found[qid] == pytest.approx(list(group["score"]))
