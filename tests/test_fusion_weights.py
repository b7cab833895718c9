"""Weights are the mean of what is best on samples of the topics, and come back from their file."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qpeft_rerank import fusion_weights
from qpeft_rerank.errors import InputError
from qpeft_rerank.evaluation import evaluate
from qpeft_rerank.fusion import FusionConfig, Pool, fuse, pool_runs
from qpeft_rerank.fusion_weights import Trial, Tuning, load_weights, save_weights, tune_weights
from qpeft_rerank.trec import Ranking, ScoredDoc

CONFIG = FusionConfig("interpolation")
QRELS = {str(topic): {f"d{topic % 7}": 1, f"d{topic % 11}": 2} for topic in range(30)}


def run(trust: float, seed: int) -> list[Ranking]:
    """A run whose scores are noise, and ``trust`` more for relevant documents."""
    draw = random.Random(seed)
    rankings = []
    for topic in range(35):
        relevant = QRELS.get(str(topic), {})
        scores = {f"d{n}": draw.random() + trust * (f"d{n}" in relevant) for n in range(20)}
        docs = [ScoredDoc(*item) for item in sorted(scores.items(), key=lambda item: -item[1])]
        rankings.append(Ranking(str(topic), docs))
    return rankings


def pools(*runs: list[Ranking]) -> list[Pool]:
    return list(pool_runs(runs, CONFIG))


def test_two_runs_are_tried_with_all_weights() -> None:
    good, better = run(0.2, 1), run(0.5, 2)
    heard: list[Trial] = []
    found = tune_weights(pools(good, better), QRELS, "AP", on_trial=heard.append)
    assert [trial.weights[0] for trial in found.trials[:21]] == [round(n * 0.05, 2) for n in range(21)]
    assert heard == found.trials and found.chosen == found.trials[-1]
    assert 0 < found.chosen.weights[0] < 0.5 and sum(found.chosen.weights) == pytest.approx(1)
    for weights, value in found.trials[::5]:
        alone = fuse([good, better], FusionConfig("interpolation", weights=weights))
        assert value == evaluate(alone, QRELS, ["AP"]).means["AP"]


def test_chosen_is_the_mean_of_what_is_best_on_samples_of_the_topics() -> None:
    good, better = run(0.2, 1), run(0.5, 2)
    grid = [round(n * 0.05, 2) for n in range(21)]
    values = []  # [weights, topics]
    for weight in grid:
        fused = fuse([good, better], FusionConfig("interpolation", weights=(weight, 1 - weight)))
        values.append([topic["AP"] for topic in evaluate(fused, QRELS, ["AP"]).per_topic.values()])
    draw, best = np.random.default_rng(0), []
    for _ in range(fusion_weights.SAMPLES):
        means = np.array(values)[:, draw.integers(0, len(QRELS), len(QRELS))].mean(axis=1)
        equal = np.flatnonzero(means > means.max() - 1e-9)
        best.append(grid[equal[len(equal) // 2]])
    assert len(set(best)) > 3  # samples differ
    assert tune_weights(pools(good, better), QRELS, "AP").chosen.weights[0] == pytest.approx(np.mean(best))


def test_a_geometric_mean_is_tuned_as_one() -> None:
    found = tune_weights(pools(run(0.2, 1), run(0.5, 2)), QRELS, "gm_map")
    arithmetic = tune_weights(pools(run(0.2, 1), run(0.5, 2)), QRELS, "AP")
    assert found.chosen.weights != arithmetic.chosen.weights
    assert (
        found.chosen.value
        == evaluate(
            fuse([run(0.2, 1), run(0.5, 2)], FusionConfig("interpolation", weights=found.chosen.weights)),
            QRELS,
            ["gm_map"],
        ).means["gm_map"]
    )


def test_one_topic_chooses_no_less() -> None:
    """All samples of it are alike: the middle of its best weights is chosen."""
    good, better = run(0.2, 1)[:1], run(0.5, 2)[:1]
    found = tune_weights(pools(good, better), {"0": QRELS["0"]}, "AP")
    assert found.chosen.value == max(trial.value for trial in found.trials)


@pytest.mark.parametrize("measure", ["nDCG@10", "RR@10", "R@5", "Success@1"])
def test_a_measure_that_looks_at_the_first_ranks_gives_what_the_whole_run_would(measure: str) -> None:
    good, better = run(0.2, 1), run(0.5, 2)
    found = tune_weights(pools(good, better), QRELS, measure)
    for weights, value in found.trials[::5]:
        alone = fuse([good, better], FusionConfig("interpolation", weights=weights))
        assert value == evaluate(alone, QRELS, [measure]).means[measure]


def test_what_hits_cut_off_counts_as_not_found() -> None:
    both = pools(run(0, 1), run(0, 2))
    few, all_ = (tune_weights(both, QRELS, "R@100", hits=hits) for hits in (3, None))
    assert few.chosen.value < all_.chosen.value == 1


def test_of_equally_good_weights_the_middle_ones_are_taken() -> None:
    same = run(0.3, 1)
    assert tune_weights(pools(same, same), QRELS).chosen.weights == (0.5, 0.5)
    useless = [Ranking(ranking.qid, [ScoredDoc("other", 1.0)]) for ranking in same]
    found = tune_weights(pools(same, useless), QRELS, "RR@10", hits=3)
    good = [trial.weights[0] for trial in found.trials if trial.value == found.chosen.value]
    assert min(good) < found.chosen.weights[0] < max(good)


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.3333, 0.3333, 0.3333)])
def test_rounding_does_not_choose_between_equally_good_weights(
    weights: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Trial] = []

    def a_little_more_each_time(rankings: Any, qrels: Any, measures: list[str], name: str) -> Any:
        value = 0.9 + 1e-15 * len(tried)
        topics = {qid: {measures[0]: value} for qid in QRELS}
        return SimpleNamespace(means={measures[0]: value}, per_topic=topics)

    monkeypatch.setattr(fusion_weights, "evaluate", a_little_more_each_time)
    both = pools(*[run(0.3, 1)] * len(weights))
    found = tune_weights(both, QRELS, on_trial=tried.append)
    assert found.chosen.weights == weights and len({trial.value for trial in found.trials}) > 1


def test_coordinate_search_finds_the_run_that_is_worth_more() -> None:
    found = tune_weights(pools(run(0, 1), run(0.6, 2), run(0.1, 3)), QRELS, "AP")
    assert found.trials[0].weights == (0.3333, 0.3333, 0.3333)
    assert found.chosen.value > found.trials[0].value
    assert max(found.chosen.weights) == found.chosen.weights[1]
    assert len({trial.weights for trial in found.trials}) == len(found.trials)


def test_the_same_weights_are_found_again() -> None:
    runs = run(0, 1), run(0.6, 2), run(0.1, 3)
    assert tune_weights(pools(*runs), QRELS) == tune_weights(pools(*runs), QRELS)


def test_what_cannot_be_tuned_is_an_error() -> None:
    both = pools(run(0, 1), run(0, 2))
    with pytest.raises(InputError, match="no topic in common"):
        tune_weights(both, {"other": {"d1": 1}})
    with pytest.raises(InputError, match="unknown measure 'best'"):
        tune_weights(both, QRELS, "best")
    with pytest.raises(InputError, match="'official' stands for"):
        tune_weights(both, QRELS, "official")


# ---- the file ----


def test_weights_come_back_with_their_settings(tmp_path: Path) -> None:
    config = FusionConfig("interpolation", normalize="z-score", depth=50)
    tuning = Tuning("nDCG@10", Trial((0.3, 0.7), 0.5), [Trial((0.3, 0.7), 0.5), Trial((0.5, 0.5), 0.4)])
    saved = save_weights(tmp_path / "w.json", config, tuning, {"runs": ["a", "b"]})
    assert saved == FusionConfig("interpolation", normalize="z-score", depth=50, weights=(0.3, 0.7))
    assert load_weights(tmp_path / "w.json") == saved
    record = json.loads((tmp_path / "w.json").read_text())
    assert record["measure"] == "nDCG@10" and record["runs"] == ["a", "b"] and len(record["trials"]) == 2


@pytest.mark.parametrize(
    "text, word",
    [
        ("0.3", "no file of weights"),
        ("[]", "no file of weights"),
        ('{"settings": []}', "no weights"),
        ('{"settings": {"method": "rrf"}}', "no weights"),
        ('{"settings": {"weights": [1, 2], "k": 1}}', "unknown setting 'k'"),
        ('{"settings": {"weights": [1, -2]}}', "weights: -2 is below 0"),
        ('{"settings": {"weights": [1, 2], "method": ["rrf"]}}', "method"),
    ],
)
def test_another_file_is_an_error_that_names_it(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "w.json"
    path.write_text(text)
    with pytest.raises(InputError, match=word) as error:
        load_weights(path)
    assert str(path) in str(error.value)
    path.unlink()
    with pytest.raises(InputError, match="FileNotFoundError"):
        load_weights(path)
