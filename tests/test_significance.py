"""Comparison of runs: the paired t-test, Holm's correction, wins and losses."""

import random

import pytest

from qpeft_rerank.errors import InputError
from qpeft_rerank.evaluation import Evaluation
from qpeft_rerank.significance import compare, holm


def evaluation(name, measures=("nDCG@10",), relevance_level=1, **values):
    """Values by measure (spelled without @) for topics 0, 1, ..."""
    columns = dict(zip(measures, values.values(), strict=True))
    topics = range(len(next(iter(columns.values()))))
    return Evaluation(
        name=name,
        measures=tuple(measures),
        per_topic={f"q{t}": {m: column[t] for m, column in columns.items()} for t in topics},
        means={m: sum(column) / len(column) for m, column in columns.items()},
        judged=len(topics),
        retrieved=len(topics),
        unjudged=0,
        relevance_level=relevance_level,
    )


def random_values(seed, topics=50, shift=0.0):
    rng = random.Random(seed)
    return [rng.random() + shift for _ in range(topics)]


def test_p_values_are_scipys():
    from scipy.stats import ttest_rel

    a, b = random_values(1), random_values(2, shift=0.1)
    expected = ttest_rel(b, a)
    found = compare([evaluation("a", v=a), evaluation("b", v=b)]).differences[0]["nDCG@10"]
    assert found.t == pytest.approx(expected.statistic)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.p_corrected == found.p  # one run to compare: nothing to correct
    assert found.difference == pytest.approx(sum(b) / 50 - sum(a) / 50)


def test_holm_multiplies_the_smallest_most_and_never_falls():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_correction_is_over_the_runs_of_each_measure():
    runs = [
        evaluation(str(i), ("AP", "RR"), a=random_values(i, shift=i / 10), b=random_values(i + 9))
        for i in range(4)
    ]
    found = compare(runs)
    for measure in ("AP", "RR"):
        assert [d[measure].p_corrected for d in found.differences] == holm(
            [d[measure].p for d in found.differences]
        )


def test_the_correction_can_be_over_the_whole_table():
    runs = [
        evaluation(str(i), ("AP", "RR"), a=random_values(i, shift=i / 10), b=random_values(i + 9))
        for i in range(3)
    ]
    found = compare(runs, family="table")
    cells = [d[m] for m in ("AP", "RR") for d in found.differences]
    assert [c.p_corrected for c in cells] == holm([c.p for c in cells])


def test_the_first_run_is_the_baseline_and_topics_are_won_tied_and_lost():
    a, b = evaluation("first", v=[0.1, 0.5, 0.5, 0.9]), evaluation("second", v=[0.2, 0.5, 0.5 + 1e-12, 0.3])
    found = compare([a, b])
    assert (found.baseline, found.runs, found.topics) == ("first", ("second",), 4)
    d = found.differences[0]["nDCG@10"]
    assert (d.wins, d.ties, d.losses) == (1, 2, 1)


def test_equal_runs_do_not_differ():
    d = compare([evaluation("a", v=[0.1, 0.2]), evaluation("b", v=[0.1, 0.2])]).differences[0]["nDCG@10"]
    assert (d.difference, d.t, d.p, d.significant) == (0.0, 0.0, 1.0, False)


def test_the_same_gain_everywhere_is_certain():
    d = compare([evaluation("a", v=[0.1, 0.2]), evaluation("b", v=[0.2, 0.3])]).differences[0]["nDCG@10"]
    assert (d.t, d.p, d.significant) == (float("inf"), 0.0, True)


def test_one_topic_gives_a_difference_but_no_test():
    d = compare([evaluation("a", v=[0.1]), evaluation("b", v=[0.3])]).differences[0]["nDCG@10"]
    assert (d.difference, d.p, d.p_corrected, d.significant) == (pytest.approx(0.2), None, None, False)


def test_counts_are_compared_but_not_tested():
    d = compare(
        [evaluation("a", ("num_ret",), v=[5, 5]), evaluation("b", ("num_ret",), v=[5, 9])]
    ).differences[0]["num_ret"]
    assert (d.wins, d.p, d.p_corrected) == (1, None, None)


@pytest.mark.parametrize(
    "other, message",
    [
        (evaluation("b", ("AP",), v=[0.1, 0.2]), "one has nDCG@10, the other AP"),
        (evaluation("b", v=[0.1, 0.2, 0.3]), "different topics"),
        (evaluation("b", relevance_level=2, v=[0.1, 0.2]), "relevance levels 1 and 2"),
    ],
)
def test_evaluations_that_do_not_match_cannot_be_compared(other, message):
    with pytest.raises(InputError, match="runs 'a' and 'b' cannot be compared") as caught:
        compare([evaluation("a", v=[0.1, 0.2]), other])
    assert message in str(caught.value)


def test_one_run_alone_and_a_wrong_family_are_errors():
    one = evaluation("a", v=[0.1])
    with pytest.raises(InputError, match="at least two runs"):
        compare([one])
    with pytest.raises(InputError, match="measure, table, not 'all'"):
        compare([one, one], family="all")
