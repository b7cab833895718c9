"""Compare runs with the first one: differences, paired t-tests, Holm's correction.

* Test: the two-sided paired t-test over topics, which holds up well for IR measures (Smucker, Allan and
  Carterette, CIKM 2007; Urbano, Lima and Hanjalic, SIGIR 2019).
* Correction: Holm's step-down procedure (Scandinavian Journal of Statistics 6, 1979), which needs no
  assumption on how the tests depend on each other. The family is, for each measure, the runs that are
  compared with the first one, as in PyTerrier's ``Experiment(baseline=0, correction="holm")``: a measure
  added to the table changes no other column. ``family="table"`` corrects over all runs and measures together,
  for claims made on any of the measures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from qpeft_rerank.errors import InputError
from qpeft_rerank.evaluation import Evaluation
from qpeft_rerank.measures import EQUAL, parse_measures

TEST = "two-sided paired t-test"
CORRECTION = "Holm"
FAMILIES = {
    "measure": "the runs compared with the first one, for each measure",
    "table": "all runs compared with the first one and all measures",
}
ALPHA = 0.05


@dataclass(frozen=True)
class Difference:
    """One run against the baseline by one measure."""

    difference: float
    """The run's figure minus the baseline's."""
    wins: int
    ties: int
    losses: int
    """Number of topics where the run is better than, equal to, worse than the baseline."""
    t: float | None
    """Statistic of the test; None under two topics, and for figures that are not means."""
    p: float | None
    """p value of the test alone."""
    p_corrected: float | None
    """p value after the correction."""
    significant: bool
    """``p_corrected`` is below ``ALPHA``."""
    standard_error: float | None = None
    """Of the difference, over topics; None where there is no test."""


@dataclass(frozen=True)
class Comparison:
    """Runs against a baseline. ``differences[i]`` belongs to ``runs[i]``: measure -> Difference."""

    baseline: str
    runs: tuple[str, ...]
    differences: tuple[dict[str, Difference], ...]
    topics: int
    family: Literal["measure", "table"] = "measure"


def compare(evaluations: Sequence[Evaluation], family: Literal["measure", "table"] = "measure") -> Comparison:
    """Compare all but the first of two or more evaluations with the first.

    Args:
        evaluations: by the same measures, on the same qrels, at the same relevance level.
        family: what the correction is over, see the module.

    Raises: InputError if the evaluations cannot be compared.
    """
    if family not in FAMILIES:
        raise InputError(f"the family of the correction must be one of {', '.join(FAMILIES)}, not {family!r}")
    if len(evaluations) < 2:
        raise InputError("a comparison needs at least two runs")
    baseline, *others = evaluations
    for other in others:
        _check_comparable(baseline, other)
    measures = parse_measures(baseline.measures)
    tests = {
        (run, m.spelling): _paired_t_test(_topic_differences(baseline, other, m.spelling))
        for m in measures
        if m.family.summary == "mean"
        for run, other in enumerate(others)
    }
    corrected: dict[tuple[int, str], float] = {}
    for group in [baseline.measures] if family == "table" else [(measure,) for measure in baseline.measures]:
        members = {key: result[1] for key, result in tests.items() if key[1] in group and result is not None}
        corrected.update(zip(members, holm(list(members.values())), strict=True))
    return Comparison(
        baseline=baseline.name,
        runs=tuple(other.name for other in others),
        differences=tuple(
            {
                m: _difference(baseline, other, m, tests.get((run, m)), corrected.get((run, m)))
                for m in baseline.measures
            }
            for run, other in enumerate(others)
        ),
        topics=baseline.judged,
        family=family,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def _topic_differences(baseline: Evaluation, other: Evaluation, measure: str) -> list[float]:
    return [other.per_topic[qid][measure] - values[measure] for qid, values in baseline.per_topic.items()]


def _paired_t_test(differences: Sequence[float]) -> tuple[float, float, float] | None:
    """(t, p, standard error) of the two-sided test that the mean difference is 0; None under two topics."""
    n = len(differences)
    if n < 2:
        return None
    if all(abs(d) < EQUAL for d in differences):
        return 0.0, 1.0, 0.0
    mean = math.fsum(differences) / n
    deviation = math.sqrt(math.fsum((d - mean) ** 2 for d in differences) / (n - 1))
    if deviation < EQUAL:  # the same difference on every topic
        return math.copysign(math.inf, mean), 0.0, 0.0
    from scipy.special import stdtr  # the t distribution; scipy.stats would take a second to import

    error = deviation / math.sqrt(n)
    return mean / error, 2 * float(stdtr(n - 1, -abs(mean / error))), error


def _difference(
    baseline: Evaluation,
    other: Evaluation,
    measure: str,
    test: tuple[float, float, float] | None,
    corrected: float | None,
) -> Difference:
    differences = _topic_differences(baseline, other, measure)
    wins = sum(d > EQUAL for d in differences)
    losses = sum(d < -EQUAL for d in differences)
    return Difference(
        difference=other.means[measure] - baseline.means[measure],
        wins=wins,
        ties=len(differences) - wins - losses,
        losses=losses,
        t=test and test[0],
        p=test and test[1],
        p_corrected=corrected,
        significant=corrected is not None and corrected < ALPHA,
        standard_error=test and test[2],
    )


def _check_comparable(baseline: Evaluation, other: Evaluation) -> None:
    both = f"runs {baseline.name!r} and {other.name!r} cannot be compared"
    if baseline.measures != other.measures:
        raise InputError(
            f"{both}: one has {', '.join(baseline.measures)}, the other {', '.join(other.measures)}"
        )
    if baseline.per_topic.keys() != other.per_topic.keys():
        raise InputError(f"{both}: they were evaluated on different topics")
    if baseline.relevance_level != other.relevance_level:
        raise InputError(f"{both}: relevance levels {baseline.relevance_level} and {other.relevance_level}")
