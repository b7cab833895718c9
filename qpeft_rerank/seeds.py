"""Runs of one system that differ by the seed of its training, as one: a topic has the mean of their values.

The paired test is then over topics, as ever, and the spread of the seeds is told beside the means.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import Any

from qpeft_rerank.errors import InputError
from qpeft_rerank.evaluation import Evaluation
from qpeft_rerank.measures import parse_measures

_SEED = re.compile(r"\.seed\d+(?=[.+_]|$)")


def average_seeds(evaluations: Iterable[Evaluation]) -> list[Evaluation]:
    """The same, with one evaluation for all whose names are alike without ``.seed`` and a number.

    Each has the place of the first one of its runs. A run that stands alone stays as it is.

    Raises:
        InputError: seeds of one system were evaluated on different topics or by different measures.

    >>> run = [Evaluation(f"a{s}", ("AP",), {"1": {"AP": v}}, {"AP": v}, 1, 1, 0) for s, v in
    ...        (("", 0.25), (".seed1", 0.75))]
    >>> [(mean.name, mean.means) for mean in average_seeds(run)]
    [('a', {'AP': 0.5})]
    """
    systems: dict[str, list[Evaluation]] = {}
    for evaluation in evaluations:
        systems.setdefault(_SEED.sub("", evaluation.name), []).append(evaluation)
    for first, *others in systems.values():
        for other in others:
            if _basis(other) != _basis(first):
                raise InputError(
                    f"runs {first.name!r} and {other.name!r} have other measures, topics or relevance levels"
                )
    return [runs[0] if len(runs) == 1 else average(runs, name) for name, runs in systems.items()]


def _basis(evaluation: Evaluation) -> tuple[Any, ...]:
    return evaluation.measures, evaluation.per_topic.keys(), evaluation.relevance_level


def average(runs: Sequence[Evaluation], name: str) -> Evaluation:
    """The mean of evaluations by the same measures, topic by topic.

    A topic that some lack has the mean of the others.
    """
    first = runs[0]
    by_topic: dict[str, list[dict[str, float]]] = {}
    for run in runs:
        for qid, values in run.per_topic.items():
            by_topic.setdefault(qid, []).append(values)
    per_topic = {
        qid: {measure: fmean(values[measure] for values in found) for measure in first.measures}
        for qid, found in by_topic.items()
    }
    means = {m: fmean(run.means[m] for run in runs) for m in first.measures}
    for measure in parse_measures(first.measures):
        if measure.family.summary == "mean":
            means[measure.spelling] = fmean(values[measure.spelling] for values in per_topic.values())
    return Evaluation(
        name=name,
        measures=first.measures,
        per_topic=per_topic,
        means=means,
        judged=len(per_topic),
        retrieved=min(run.retrieved for run in runs),
        unjudged=max(run.unjudged for run in runs),
        relevance_level=first.relevance_level,
        seeds=tuple(runs),
    )


def deviation(evaluation: Evaluation) -> dict[str, float]:
    """Standard deviation of the means of the runs that an evaluation is the mean of, by measure."""
    return {m: stdev(run.means[m] for run in evaluation.seeds) for m in evaluation.measures}
