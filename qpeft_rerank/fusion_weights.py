"""Weights of runs for fusion: tuned by a measure on topics with qrels, and kept in a file.

Weights must be chosen on other topics than those that a result is reported on (train or dev, never test). On
a hundred or so topics the curve of a measure over the weights is flat and rough, so that its highest point is
partly chance. The mean of the highest points of bootstrap samples is steadier (bagging: Breiman, Machine
Learning 24, 1996).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qpeft_rerank.errors import InputError
from qpeft_rerank.evaluation import evaluate
from qpeft_rerank.files import atomic_write
from qpeft_rerank.fusion import FusionConfig, Pool
from qpeft_rerank.measures import EQUAL, parse_measures
from qpeft_rerank.record import run_record
from qpeft_rerank.trec import Qrels, as_qrels

STEP = 0.05  # between two weights that are tried
MOST_ROUNDS = 10  # of coordinate search; as a rule the third finds nothing better, and ends it
SAMPLES, SAMPLES_OF_MORE = 100, 20  # of the topics, with replacement; the latter for more than two runs


Weights = tuple[float, ...]


class Trial(NamedTuple):
    """Weights that were tried, and what the measure gave for them."""

    weights: Weights
    value: float


@dataclass(frozen=True)
class Tuning:
    """What `tune_weights` found."""

    measure: str
    chosen: Trial
    """The mean of the best weights of bootstrap samples, and what it gives on all topics."""
    trials: list[Trial]
    """All that was tried, in the order in which it was."""


def tune_weights(
    pools: Sequence[Pool],
    qrels: Qrels,
    measure: str = "nDCG@10",
    hits: int | None = None,
    on_trial: Callable[[Trial], None] | None = None,
) -> Tuning:
    """Find weights, 1 in all, for which the fused run is good: the mean of those that are best on bootstrap
    samples of the topics (always the same samples).

    With two runs, all weights in steps of 0.05 are tried. With more, coordinate search begins at equal
    weights: the weight of one run after the other takes each value from 0 to 1 while the others share the
    rest as before, until no change of one weight helps. Of equally good values of a weight the middle one is
    taken, which is farther from worse ones than the first or last.

    Args:
        pools: what the runs have for each topic (`pool_runs`). All are held in memory.
        qrels: topic -> docid -> grade, or a file, name or data frame of qrels.
        measure: one measure, higher is better; as for `evaluate`.
        hits: documents of a topic that are kept.
        on_trial: hears of each trial; its value is that of all topics.

    Raises:
        InputError: as `evaluate` does: no measure of this name, no topic in common, and so on.
    """
    qrels = as_qrels(qrels)
    names = parse_measures([measure])
    if len(names) != 1:
        raise InputError(f"measure {measure!r} stands for {len(names)} measures: weights are tuned by one")
    spelling = names[0].spelling
    needed = min((rank for rank in (hits, names[0].depth) if rank), default=None)  # lower ones change nothing
    judged = [pool for pool in pools if pool.qid in qrels] or pools
    trials: list[Trial] = []
    by_topic: dict[Weights, np.ndarray] = {}

    def values(weights: Weights) -> np.ndarray:
        """The measure's value for each topic, of which the mean is looked at: its logarithm if that is
        geometric."""
        if weights not in by_topic:
            rankings = (pool.ranking(weights, needed) for pool in judged)
            found = evaluate(rankings, qrels, [spelling], name="fused")
            one = np.array([topic[spelling] for topic in found.per_topic.values()])
            by_topic[weights] = np.log(one) if names[0].family.summary == "geometric" else one
            trials.append(Trial(weights, found.means[spelling]))
            if on_trial is not None:
                on_trial(trials[-1])
        return by_topic[weights]

    equal = _rounded([1 / len(pools[0].scores)] * len(pools[0].scores)) if pools else ()
    highest = _search(equal, lambda weights: float(values(weights).mean()))
    best, topics = [], len(values(highest))
    draw = np.random.default_rng(0)
    for _ in range(SAMPLES if len(equal) == 2 else SAMPLES_OF_MORE):
        drawn = np.bincount(draw.integers(0, topics, topics), minlength=topics) / topics
        best.append(_search(equal, lambda weights, drawn=drawn: float(drawn @ values(weights))))
    values(chosen := _rounded(np.mean(best, axis=0)))
    return Tuning(spelling, next(trial for trial in trials if trial.weights == chosen), trials)


def _search(equal: Weights, value_of: Callable[[Weights], float]) -> Weights:
    """The best weights, see `tune_weights`."""

    def best_along(weights: Weights, place: int) -> Trial:
        trials = [Trial(point, value_of(point)) for point in _along(weights, place)]
        highest = max(trial.value for trial in trials)
        good = [trial for trial in trials if trial.value >= highest - EQUAL]
        return good[len(good) // 2]

    if len(equal) == 2:
        return best_along(equal, 0).weights
    best = Trial(equal, value_of(equal))
    for _ in range(MOST_ROUNDS):
        before = best
        for place in range(len(equal)):
            found = best_along(best.weights, place)
            best = found if found.value > best.value + EQUAL else best
        if best == before:
            break
    return best.weights


def save_weights(
    path: str | Path, config: FusionConfig, tuning: Tuning, sources: Mapping[str, Any] | None = None
) -> FusionConfig:
    """Write the weights that were found, with all that they belong to, as JSON; give the settings with them.

    Args:
        path: file to write.
        config: the settings that the weights were tuned under.
        tuning: what was found.
        sources: where runs and qrels came from, JSON-ready.
    """
    tuned = replace(config, weights=tuning.chosen.weights)
    found = {
        "measure": tuning.measure,
        "value": tuning.chosen.value,
        "trials": [{"weights": list(weights), "value": value} for weights, value in tuning.trials],
    }
    with atomic_write(path) as stream:
        json.dump({**run_record(tuned.to_dict()), **(sources or {}), **found}, stream, indent=2)
        stream.write("\n")
    return tuned


def load_weights(path: str | Path) -> FusionConfig:
    """The settings that `save_weights` wrote. Raises InputError for a file that has none."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        settings = dict(record["settings"])
        unknown = sorted(settings.keys() - {f.name for f in fields(FusionConfig)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is no file of weights ({type(error).__name__}: {error})") from error
    if unknown or settings.get("weights") is None:
        problem = f"unknown setting {unknown[0]!r}" if unknown else "no weights"
        raise InputError(f"{path}: is no file of weights ({problem})")
    try:
        return FusionConfig(**settings)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _along(weights: Sequence[float], place: int) -> Iterator[Weights]:
    """The weight at ``place`` from 0 to 1, the others sharing the rest as they do now."""
    others = sum(weights) - weights[place]
    for step in range(round(1 / STEP) + 1):
        own = step * STEP
        yield _rounded(
            own if i == place else (1 - own) * (weight / others if others else 1 / (len(weights) - 1))
            for i, weight in enumerate(weights)
        )


def _rounded(weights: Iterable[float]) -> Weights:
    return tuple(round(float(weight), 4) for weight in weights)  # to be read, and typed again
