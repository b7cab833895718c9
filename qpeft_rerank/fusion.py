"""Fuse runs: the rankings of several runs for the same topics become one, by rank or by weighted score.

* ``rrf``: reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009). A document gets 1 / (k + rank)
  from each run that has it.
* ``interpolation``: the weighted sum of the runs' scores, normalized topic by topic or as they are.

Where ``pyserini.fusion`` has the same, the scores are the same: scores are normalized over the whole list of
a topic, which is cut to the depth afterwards, and a document that a run lacks gets 0 from it. There is one
difference: where a run has scores below 0 (log-likelihoods, z-scores), 0 would place a document that it lacks
above those that it has, so that such a document gets the topic's lowest score in this run instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from qpeft_rerank.errors import InputError
from qpeft_rerank.rankings import Ranking, ScoredDoc
from qpeft_rerank.run_scores import as_float32
from qpeft_rerank.settings import check_settings, setting
from qpeft_rerank.trec import Run, as_rankings

METHODS = ("rrf", "interpolation")
NORMALIZATIONS = ("min-max", "z-score", "none")


@dataclass(frozen=True)
class FusionConfig:
    """How runs are fused.

    Raises:
        InputError: a field has a value that is not possible; the message names field and value.
    """

    method: str = setting(
        "rrf", "rrf: by reciprocal ranks; interpolation: by weighted scores", choices=METHODS
    )
    normalize: str = setting(
        "min-max", "how scores are made comparable, topic by topic (interpolation)", choices=NORMALIZATIONS
    )
    rrf_k: int = setting(60, "k of 1 / (k + rank): the higher, the less the first ranks stand out", least=0)
    depth: int | None = setting(None, "documents of each run and topic that count (default: all)", least=1)
    weights: tuple[float, ...] | None = setting(
        None, "weight of each run (default: equal; 1 each for rrf, else 1 in all)", least=0
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.weights is not None:
            object.__setattr__(self, "weights", tuple(map(float, self.weights)))
            if not any(self.weights):
                raise InputError("weights: one of them must be above 0")

    def weights_of(self, runs: int) -> tuple[float, ...]:
        """A weight for each of so many runs. Raises InputError if another number of weights was set."""
        if self.weights is None:
            return (1.0 if self.method == "rrf" else 1 / runs,) * runs
        if len(self.weights) != runs:
            raise InputError(f"there are {len(self.weights)} weights for {runs} runs")
        return self.weights

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return {**asdict(self), "weights": None if self.weights is None else list(self.weights)}


class Pool(NamedTuple):
    """The documents that several runs have for one topic."""

    qid: str
    docids: list[str]
    """In descending byte order: a stable sort by score then breaks ties as trec_eval does."""
    scores: np.ndarray
    """What each run gives each document at weight 1: float64, shape (runs, documents)."""
    found_in: int
    """How many of the runs have the topic."""

    def ranking(self, weights: Sequence[float], hits: int | None = None) -> Ranking:
        """The best ``hits`` documents (None: all) by the weighted sum of their scores; equal as float32 is
        equal.
        """
        total = np.zeros(len(self.docids))
        for weight, row in zip(weights, self.scores, strict=True):
            total += weight * row  # not a matrix product, which may round equal columns differently
        with np.errstate(over="ignore"):  # what float32 cannot hold is an error where the run is written
            order = np.argsort(-total.astype(np.float32), kind="stable")[:hits]
        return Ranking(self.qid, [ScoredDoc(self.docids[i], total[i].item()) for i in order.tolist()])


def fuse(
    runs: Sequence[Run], config: FusionConfig | None = None, hits: int | None = None
) -> Iterator[Ranking]:
    """Fuse runs, topic by topic.

    Args:
        runs: two or more (`trec.Run`): each topic once, best documents first.
        config: method, normalization, depth and weights; by default rrf with k 60.
        hits: documents of a topic that are kept; None: all that any run has.

    Returns:
        The topics of all runs. Those that all runs have come as soon as the last run gives them, so runs
        with their topics in the same order take the memory of a topic; the others come at the end.

    Raises:
        InputError: fewer than two runs, an empty one, no topic in common, a topic or document twice.

    >>> one = [Ranking("1", [ScoredDoc("a", 9.0), ScoredDoc("b", 7.0), ScoredDoc("c", 5.0)])]
    >>> two = [Ranking("1", [ScoredDoc("c", 0.5), ScoredDoc("b", 0.4)])]
    >>> [doc.docid for doc in next(fuse([one, two])).docs]
    ['c', 'b', 'a']
    """
    config = config or FusionConfig()
    weights = config.weights_of(len(runs))
    return (pool.ranking(weights, hits) for pool in pool_runs(runs, config))


def pool_runs(runs: Sequence[Run], config: FusionConfig) -> Iterator[Pool]:
    """What `fuse` weighs, topic by topic; arguments, order and errors as there."""
    if len(runs) < 2:
        raise InputError(f"fusion needs two runs or more, not {len(runs)}")
    rankings = [as_rankings(run, f"run {n} of {len(runs)}") for n, run in enumerate(runs, 1)]
    return (_pool(qid, parts, config) for qid, parts in _by_topic(rankings))


def normalized(scores: np.ndarray, kind: str) -> np.ndarray:
    """Make the scores of one ranking comparable with those of another.

    Args:
        scores: the scores of one topic's documents, shape (documents,); it may be empty.
        kind: ``min-max``: from 0, the lowest, to 1, the highest; ``z-score``: their distance from the mean in
            standard deviations (of the population); ``none``: as they are.

    Returns:
        float64 numbers of the same shape. Equal scores say nothing of the order: they all become 1 with
        ``min-max``, as in Pyserini, so that to be found counts more than not to be found, and 0 with
        ``z-score``. So do scores that are one float32 number after the other: in a written run, equal ones
        are.

    >>> normalized(np.array([3.0, 2.0, 1.0]), "min-max").tolist()
    [1.0, 0.5, 0.0]
    """
    if kind not in NORMALIZATIONS:
        raise InputError(f"normalize: {kind!r} is not one of {', '.join(NORMALIZATIONS)}")
    scores = np.asarray(scores, dtype=np.float64)
    if kind == "none" or not scores.size:
        return scores
    low, high = scores.min(), scores.max()
    if low == high or _told_apart_in_writing(scores):
        return np.ones_like(scores) if kind == "min-max" else np.zeros_like(scores)
    if kind == "min-max":
        return (scores - low) / (high - low)
    return (scores - scores.mean()) / scores.std()


def _told_apart_in_writing(scores: np.ndarray) -> bool:
    """Whether each score is at most one float32 step above the next lower one (`run_scores`)."""
    rounded = np.sort(as_float32(scores))
    return bool((np.nextafter(rounded[1:], np.float32(-np.inf)) <= rounded[:-1]).all())


def interpolated(first: np.ndarray, second: np.ndarray, weight: float) -> np.ndarray:
    """Two scores of each of a topic's documents in one: ``weight`` (0 to 1) times the z-score of the second,
    and the rest of 1 times that of the first. Shapes (documents,); float64.
    """
    return (1 - weight) * normalized(first, "z-score") + weight * normalized(second, "z-score")


def _pool(qid: str, rankings: Sequence[Ranking | None], config: FusionConfig) -> Pool:
    lists = [[] if ranking is None else ranking.docs for ranking in rankings]
    found = {doc.docid for docs in lists for doc in docs[: config.depth]}
    docids = sorted(found, reverse=True)
    column = {docid: i for i, docid in enumerate(docids)}
    scores = np.zeros((len(lists), len(docids)))
    for row, docs in zip(scores, lists):
        if not docs:
            continue
        if config.method == "rrf":
            given = 1 / (config.rrf_k + np.arange(1, len(docs) + 1))
        else:
            given = normalized(np.array([doc.score for doc in docs]), config.normalize)
            row[:] = min(0.0, given.min())
        columns = [column[doc.docid] for doc in docs[: config.depth]]
        if len(set(columns)) != len(columns):
            raise InputError(f"topic {qid!r} has a document twice in a run")
        row[columns] = given[: config.depth]
    return Pool(qid, docids, scores, sum(ranking is not None for ranking in rankings))


def _by_topic(runs: Sequence[Iterable[Ranking]]) -> Iterator[tuple[str, list[Ranking | None]]]:
    """Each topic with its ranking in each run, None where a run does not have it."""
    live = {place: iter(run) for place, run in enumerate(runs)}
    started: dict[int, str] = {}  # run -> its first topic
    waiting: dict[str, list[Ranking | None]] = {}
    common = False
    while live:
        for place in list(live):  # one topic of each run in turn
            ranking = next(live[place], None)
            if ranking is None:
                if place not in started:
                    raise InputError(f"run {place + 1} of {len(runs)} is empty: there is nothing to fuse")
                del live[place]
                continue
            qid = ranking.qid
            started.setdefault(place, qid)
            parts = waiting.setdefault(qid, [None] * len(runs))
            parts[place] = ranking
            if all(part is not None for part in parts):
                common = True
                yield qid, waiting.pop(qid)
    if not common and all(sum(part is not None for part in parts) == 1 for parts in waiting.values()):
        examples = ", ".join(map(repr, started.values()))
        raise InputError(f"the runs have no topic in common; their first topics are {examples}")
    yield from waiting.items()
