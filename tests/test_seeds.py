"""Runs of several seeds are one system: means and tests are over their topic means, the spread is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qpeft_rerank.cli.__main__ import main
from qpeft_rerank.errors import InputError
from qpeft_rerank.evaluation import Evaluation, evaluate
from qpeft_rerank.report import format_report
from qpeft_rerank.seeds import average, average_seeds, deviation
from qpeft_rerank.significance import compare

QRELS = {str(topic): {"good": 1} for topic in range(6)}


def run(*ranks: int) -> dict[str, dict[str, float]]:
    """A run that has the relevant document at these ranks, one for each topic."""
    return {
        str(topic): {"good" if place == rank else f"bad{place}": -float(place) for place in range(1, 6)}
        for topic, rank in enumerate(ranks)
    }


def of(name: str, *ranks: int) -> Evaluation:
    return evaluate(run(*ranks), QRELS, ["RR@10", "NumRelRet"], name=name)


FIRST, SECOND, OTHER = (1, 2, 1, 4, 1, 2), (2, 2, 1, 1, 4, 1), (3, 3, 2, 5, 5, 2)


def test_names_that_differ_by_a_seed_are_one_system_in_the_place_of_the_first() -> None:
    names = [
        "bm25",
        "run.a.test",
        "run.a.seed1.test",
        "b",
        "run.a.seed12.test",
        "run.a.seedling.test",
        "b.seed3",
        "b.seed3+a",
        "b+a",
    ]
    averaged = average_seeds(of(name, *FIRST) for name in names)
    assert [(one.name, len(one.seeds)) for one in averaged] == [
        ("bm25", 0),
        ("run.a.test", 3),
        ("b", 2),
        ("run.a.seedling.test", 0),
        ("b+a", 2),
    ]


def test_a_topic_has_the_mean_of_the_seeds() -> None:
    mean = average([of("a", *FIRST), of("a.seed1", *SECOND)], "a")
    assert mean.per_topic["0"]["RR@10"] == (1 + 1 / 2) / 2
    assert mean.means["RR@10"] == pytest.approx(
        (of("a", *FIRST).means["RR@10"] + of("a", *SECOND).means["RR@10"]) / 2
    )
    assert mean.means["NumRelRet"] == 6  # a sum over topics, not their mean
    assert (mean.judged, mean.retrieved) == (6, 6)


def test_the_spread_is_that_of_the_means_of_the_seeds() -> None:
    seeds = [of("a", *FIRST), of("a.seed1", *SECOND)]
    a, b = (one.means["RR@10"] for one in seeds)
    assert deviation(average(seeds, "a"))["RR@10"] == pytest.approx(abs(a - b) / 2**0.5)


def test_tests_are_over_topics_not_over_topics_times_seeds() -> None:
    base = of("base", *OTHER)
    once = compare([base, of("a", *FIRST)]).differences[0]["RR@10"]
    thrice = average_seeds([base, *(of(name, *FIRST) for name in ("a", "a.seed1", "a.seed2"))])
    found = compare(thrice).differences[0]["RR@10"]
    assert (found.t, found.p) == (pytest.approx(once.t), pytest.approx(once.p))
    assert found.wins + found.ties + found.losses == 6


def test_topics_that_some_seeds_lack_have_the_mean_of_the_others() -> None:
    few = {qid: QRELS[qid] for qid in ("0", "1")}
    mean = average([of("a", *FIRST), evaluate(run(*SECOND), few, ["RR@10", "NumRelRet"])], "a")
    assert mean.per_topic["0"]["RR@10"] == 0.75 and mean.per_topic["3"]["RR@10"] == 0.25
    assert mean.means["RR@10"] == pytest.approx((0.75 + 0.5 + 1 + 0.25 + 1 + 0.5) / 6)


def test_seeds_on_other_topics_are_an_error() -> None:
    few = evaluate(run(*SECOND), {"0": {"good": 1}}, ["RR@10", "NumRelRet"], name="a.seed1")
    with pytest.raises(InputError, match="'a' and 'a.seed1' have other measures, topics or relevance levels"):
        average_seeds([of("a", *FIRST), few])
    graded = [
        evaluate(run(*FIRST), QRELS, ["RR@10"], level, name) for level, name in ((1, "a"), (2, "a.seed1"))
    ]
    with pytest.raises(InputError, match="relevance levels"):
        average_seeds(graded)


def test_tables_tell_the_spread() -> None:
    averaged = average_seeds([of("base", *OTHER), of("a", *FIRST), of("a.seed1", *SECOND)])
    text = format_report(averaged)
    assert "  standard deviation" in text and "a: mean of 2 seeds" in text
    record = json.loads(format_report(averaged, "json"))
    assert "seeds" not in record["runs"][0]
    assert record["runs"][1]["seeds"]["a.seed1"] == of("a.seed1", *SECOND).means


def test_the_command_line_averages_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "qrels.txt").write_text("".join(f"{qid} 0 good 1\n" for qid in QRELS))
    paths = []
    for name, ranks in (("run.a.test", FIRST), ("run.a.seed1.test", SECOND)):
        paths.append(str(tmp_path / f"{name}.txt"))
        Path(paths[-1]).write_text(
            "".join(
                f"{qid} Q0 {docid} {place} {score} t\n"
                for qid, docs in run(*ranks).items()
                for place, (docid, score) in enumerate(docs.items(), start=1)
            )
        )
    common = ["evaluate", "--qrels", str(tmp_path / "qrels.txt"), "-m", "RR@10", *paths]
    main(common)
    assert "difference" in capsys.readouterr().out
    main([*common, "--average-seeds"])
    out = capsys.readouterr().out
    assert "difference" not in out and "mean of 2 seeds" in out
    assert main([*common, "--average-seeds", "--plot", str(tmp_path / "picture.png")]) == 2
    assert "two systems or more" in capsys.readouterr().err
