"""Evaluate a run: pytrec_eval's measures for each topic, and their means over all judged topics.

What is counted is what ``trec_eval -c`` counts (https://github.com/usnistgov/trec_eval):

* The means are over all *judged* topics, that is, all topics of the qrels: one without results counts 0, and
  so does one without a relevant document. pytrec_eval leaves the former out, so we fill them in.
* Topics of the run that the qrels do not have are left out, and their number is given.
* Documents are ordered by score as float32, equal scores by docid, both descending.
* The relevance level (``-l``) is the lowest grade that counts as relevant. nDCG uses the grades themselves.
  Grades below 0 mean "in the pool, but not judged".

A run is read topic by topic, so memory holds the rankings of one topic only.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from heapq import nlargest
from itertools import compress, islice
from operator import add
from os import PathLike, fspath
from pathlib import PurePath
from typing import IO, TYPE_CHECKING

import numpy as np

from qpeft_rerank.errors import InputError, examples
from qpeft_rerank.files import is_source
from qpeft_rerank.frames import Frame, run_of_frame
from qpeft_rerank.measures import DEFAULT_MEASURES, HIGHEST_GRADE, Measure, parse_measures

if TYPE_CHECKING:
    from qpeft_rerank.trec import Qrels, Run

# The least value of a topic in trec_eval's geometric means (MIN_GEO_MEAN).
_LEAST_GEOMETRIC = 0.00001


@dataclass(frozen=True)
class Evaluation:
    """What a run is worth by some measures. ``measures`` are spelled and ordered as they were asked for."""

    name: str
    """Name of the run: given, or made of its file name."""
    measures: tuple[str, ...]
    per_topic: dict[str, dict[str, float]]
    """Every judged topic, in the order of the qrels -> measure -> value."""
    means: dict[str, float]
    """Measure -> figure of all topics: the mean, but the sum of counts and the geometric mean of gm_map."""
    judged: int
    """Number of judged topics: the means are over these."""
    retrieved: int
    """Number of judged topics for which the run has results."""
    unjudged: int
    """Number of topics of the run that the qrels do not have: left out."""
    relevance_level: int = 1
    seeds: tuple[Evaluation, ...] = ()
    """What this is the mean of, if it is one (`seeds.average_seeds`)."""

    @property
    def missing(self) -> int:
        """Number of judged topics without results: each counts 0."""
        return self.judged - self.retrieved


def evaluate(
    run: Run,
    qrels: Qrels,
    measures: Iterable[str] = DEFAULT_MEASURES,
    relevance_level: int = 1,
    name: str | None = None,
) -> Evaluation:
    """Evaluate a run against qrels.

    Args:
        run: a TREC run (path, "-" for stdin, or an open text file), rankings, or topic -> docid -> score, as
            pytrec_eval takes it, or topic -> its ranking.
        qrels: TREC qrels (path, Pyserini name, or an open text file), topic -> docid -> grade, or a data
            frame.
        measures: names in either spelling, see ``qpeft_rerank.measures``.
        relevance_level: the lowest grade that counts as relevant. It does not hold for measures that use the
            grades themselves, and those with a level in their name, as ``AP(rel=2)``.
        name: name of the run in tables; by default its file name without ``.txt`` and ``.gz``.

    Raises:
        InputError: an unknown measure, an empty run or qrels, no topic in common, a topic or document twice.
        FormatError: a malformed line.

    >>> from qpeft_rerank.rankings import Ranking, ScoredDoc
    >>> run = [Ranking("1", [ScoredDoc("a", 2.0), ScoredDoc("b", 1.0)])]
    >>> evaluate(run, {"1": {"b": 1}, "2": {"c": 1}}, ["RR@10"]).means
    {'RR@10': 0.25}
    """
    wanted = parse_measures(measures)
    if type(relevance_level) is not int or not 1 <= relevance_level <= HIGHEST_GRADE:
        raise InputError(
            f"the relevance level must be a whole number from 1 to {HIGHEST_GRADE}, not {relevance_level!r}"
        )
    grades = _judged_topics(qrels)
    score_topic = _TopicScorer(wanted, grades, relevance_level)
    if name is None:
        name = run_names([run])[0] if is_source(run) else "run"

    scored: dict[str, dict[str, float]] = {}
    seen: set[str] = set()
    for qid, scores in _topics(run):
        if qid in seen:
            raise InputError(f"topic {qid!r} comes twice in the run {name!r}")
        seen.add(qid)
        if scores and qid in grades:
            scored[qid] = score_topic(qid, scores)
    if not seen:
        raise InputError(f"the run {name!r} is empty: it has no topic")
    if not scored:
        raise InputError(
            f"the run {name!r} and the qrels have no topic in common: "
            f"the run has {examples(seen)}, the qrels {examples(grades)}"
        )
    absent = {m.spelling: _LEAST_GEOMETRIC if m.family.summary == "geometric" else 0.0 for m in wanted}
    per_topic = {qid: scored.get(qid) or dict(absent) for qid in grades}
    return Evaluation(
        name=name,
        measures=tuple(m.spelling for m in wanted),
        per_topic=per_topic,
        means={m.spelling: _summary(m, per_topic, grades) for m in wanted},
        judged=len(grades),
        retrieved=len(scored),
        unjudged=len(seen - grades.keys()),
        relevance_level=relevance_level,
    )


def run_names(runs: Sequence[str | PathLike[str] | IO]) -> list[str]:
    """Names of runs for a table: file names without ``.txt`` and ``.gz``, with folders if they need them.

    >>> run_names(["a/run.bm25.txt", "a/run.qpeft.txt.gz"])
    ['run.bm25', 'run.qpeft']
    >>> run_names(["a/run.txt", "b/run.txt"])
    ['a/run', 'b/run']
    """
    paths = [_name_parts(run) for run in runs]
    for depth in range(1, max(map(len, paths), default=0) + 1):
        names = [str(PurePath(*parts[-depth:])) for parts in paths]
        if len(set(names)) == len(set(paths)):
            return names
    return []


class _TopicScorer:
    """Scores one topic at a time, with an evaluator for each relevance level, since pytrec_eval takes one."""

    def __init__(self, measures: list[Measure], grades: dict[str, dict[str, int]], relevance_level: int):
        import pytrec_eval

        self._grades = grades
        self._spellings = [m.spelling for m in measures]
        self._evaluators = []
        for level in dict.fromkeys(m.level or relevance_level for m in measures if m.request):
            members = [m for m in measures if m.request and (m.level or relevance_level) == level]
            evaluator = pytrec_eval.RelevanceEvaluator(
                grades, {m.request for m in members}, relevance_level=level
            )
            self._evaluators.append((evaluator, [(m, m.key) for m in members]))
        self._tail = any(m.family.tail for m in measures)
        self._shares = [m for m in measures if m.request is None]
        self._top = max((m.depth for m in self._shares), default=0)

    def __call__(self, qid: str, scores: dict[str, float]) -> dict[str, float]:
        """Values of one topic from docid -> score (not empty)."""
        grades = self._grades[qid]
        needed = {qid: scores if self._tail else _down_to_last_judged(scores, grades)}
        top = nlargest(self._top, zip(array("f", scores.values()), scores, strict=True)) if self._top else []
        values: dict[str, float] = {}
        for evaluator, members in self._evaluators:
            answer = evaluator.evaluate(needed)[qid]
            for measure, key in members:
                values[measure.spelling] = _value(measure, answer[key])
        for measure in self._shares:
            values[measure.spelling] = _judged_share(top[: measure.depth], grades)
        return {spelling: values[spelling] for spelling in self._spellings}


def _down_to_last_judged(scores: dict[str, float], grades: dict[str, int]) -> dict[str, float]:
    """The documents down to the last judged one: those below change no value, but cost pytrec_eval's time."""
    found = grades.keys() & scores.keys()
    if not found:
        return dict(islice(scores.items(), 1))
    lowest = min(map(scores.__getitem__, found))
    # Scores that are equal as float32 are ties, which the docid may break either way: keep all that may be.
    # Float32 numbers are at most 2 ** -23 of their size apart, and near 0 2 ** -149.
    lowest -= abs(lowest) * 2**-22 + 2**-148
    kept = np.fromiter(scores.values(), np.float64, len(scores)) >= lowest
    end = len(kept) - int(kept[::-1].argmax())  # most runs are sorted: what comes after is below
    return dict(compress(islice(scores.items(), end), kept[:end].tolist()))


def _value(measure: Measure, answer: float) -> float:
    """What the measure makes of pytrec_eval's answer."""
    if measure.family.own_cut and measure.cutoff and answer:  # RR@k: the answer is 1 / rank
        return answer if round(1 / answer) <= measure.cutoff else 0.0
    if measure.family.summary == "geometric":  # the answer is a logarithm
        return math.exp(answer)
    return answer


def _judged_share(top: Sequence[tuple[float, str]], grades: Collection[str]) -> float:
    """Judged@k as ir_measures defines it: the share of judged documents among the top k that are there."""
    return sum(docid in grades for _, docid in top) / len(top)


def _summary(
    measure: Measure, per_topic: dict[str, dict[str, float]], grades: dict[str, dict[str, int]]
) -> float:
    if measure.family.name == "NumQ":
        return float(len(grades))
    if measure.family.name == "NumRel":
        # With -c, trec_eval counts over all judged topics, and grades from 1 whatever -l says.
        level = measure.level or 1
        return float(sum(grade >= level for topic in grades.values() for grade in topic.values()))
    # Added up one by one in trec_eval's order, so that a mean of 0.00405, too, is rounded alike.
    values = [per_topic[qid][measure.spelling] for qid in sorted(per_topic)]
    if measure.family.summary == "geometric":
        return math.exp(reduce(add, map(math.log, values)) / len(values))
    total = reduce(add, values)
    return total if measure.family.summary == "sum" else total / len(values)


def _judged_topics(qrels: Qrels) -> dict[str, dict[str, int]]:
    from qpeft_rerank.trec import as_qrels

    qrels = as_qrels(qrels)
    for qid, topic in qrels.items():
        _check_ids(qid, topic)
    judged: dict[str, dict[str, int]] = {}
    for qid, topic in qrels.items():
        if not topic:
            continue
        highest = max(topic.values())
        if highest > HIGHEST_GRADE:
            raise InputError(
                f"qrels: topic {qid!r} has the grade {highest}; the highest may be {HIGHEST_GRADE}"
            )
        # trec_eval takes all grades below 0 alike. But a topic that has no other leaves its counters of
        # grades unset, and it may crash or never end. Grades of 0 give what is due: 0 by every measure.
        judged[qid] = {docid: max(int(grade), -1 if highest >= 0 else 0) for docid, grade in topic.items()}
    if not judged:
        raise InputError("the qrels are empty: no topic is judged")
    return judged


def _topics(run: Run) -> Iterator[tuple[str, dict[str, float]]]:
    """(qid, docid -> score), topic by topic. Rankings get the checks that the reader of files makes."""
    if is_source(run):
        from qpeft_rerank.trec import read_scores

        yield from read_scores(run)
        return
    if isinstance(run, Frame):
        run = run_of_frame(run)
    if isinstance(run, Mapping):
        from qpeft_rerank.rankings import of_dictionary

        run = (
            (qid, list(docs.items())) if isinstance(docs, Mapping) else of_dictionary(qid, docs)
            for qid, docs in run.items()
        )
    for qid, docs in run:
        try:
            scores = {docid: float(score) for docid, score in docs}
        except (TypeError, ValueError) as error:
            raise InputError(f"topic {qid!r} has a score that is no number: {error}") from None
        _check_ids(qid, scores)
        if len(scores) != len(docs):
            raise InputError(f"topic {qid!r} has a document twice")
        if not all(map(math.isfinite, array("f", scores.values()))):
            raise InputError(f"topic {qid!r} has a score that is not a finite float32 number")
        yield qid, scores


def _check_ids(qid: str, docids: Iterable[str]) -> None:
    """pytrec_eval, which is written in C++, crashes on what cannot be UTF-8 and stops at a NUL character."""
    try:
        text = "".join((qid, *docids)).encode()
    except (TypeError, UnicodeEncodeError) as error:
        raise InputError(f"topic {qid!r} has an id that is not text: {error}") from None
    if b"\0" in text:
        raise InputError(f"topic {qid!r} has an id with a NUL character")


def _name_parts(run: str | PathLike[str] | IO) -> tuple[str, ...]:
    path = getattr(run, "name", "run") if hasattr(run, "read") else fspath(run)
    if path in ("-", "<stdin>", 0):
        return ("stdin",)
    pure = PurePath(str(path))
    return (*pure.parts[:-1], pure.name.removesuffix(".gz").removesuffix(".txt") or pure.name)
