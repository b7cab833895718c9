"""A topic's ranked documents, and the other forms in which programs hold them: plain pairs, dictionaries."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from operator import itemgetter
from typing import Any, NamedTuple

from qpeft_rerank.errors import InputError
from qpeft_rerank.run_scores import in_order


class ScoredDoc(NamedTuple):
    """A document of a ranking with its score."""

    docid: str
    score: float


class Ranking(NamedTuple):
    """The ranked documents of one topic, best first."""

    qid: str
    docs: list[ScoredDoc]


def as_ranking(given: Any) -> Ranking:
    """A ranking, whether it is given as one or as plain pairs.

    Raises InputError for anything else, for an id that is no text, and for a score that is no finite number.
    """
    try:
        ranking = given
        if not (isinstance(given, Ranking) and set(map(type, given.docs)) <= {ScoredDoc}):
            qid, docs = given
            ranking = Ranking(qid, [ScoredDoc(docid, float(score)) for docid, score in docs])
        ids = [ranking.qid, *map(itemgetter(0), ranking.docs)]
        if set(map(type, ids)) != {str}:  # by type first: runs have millions of lines
            for one in ids:
                if not isinstance(one, str):
                    raise InputError(f"run: topic {ranking.qid!r} has an id that is not text: {one!r}")
        # The sum first, which shows whether one of them is none: runs have millions of lines.
        if not isfinite(sum(map(itemgetter(1), ranking.docs))):
            for docid, score in ranking.docs:
                if not isfinite(score):
                    about = f"topic {ranking.qid!r}: the score of {docid!r}"
                    raise InputError(f"{about} is {score}, not a finite number")
        return ranking
    except (TypeError, ValueError):
        raise InputError(
            f"run: expected rankings, (qid, [(docid, score), ...]), found {given!r:.80}"
        ) from None


def of_dictionary(qid: str, docs: Mapping[str, float] | Ranking) -> Ranking:
    """The ranking of a topic in a dictionary of topics: of docid -> score, sorted as trec_eval sorts.

    Raises InputError as `as_ranking`, and for a ranking of another topic.
    """
    if not isinstance(docs, Mapping):
        ranking = as_ranking(docs)
        if ranking.qid != qid:
            raise InputError(f"run: topic {qid!r} has the ranking of topic {ranking.qid!r}")
        return ranking
    ranking = as_ranking((qid, docs.items()))
    docids, scores = in_order([doc.docid for doc in ranking.docs], [doc.score for doc in ranking.docs])
    return Ranking(qid, list(map(ScoredDoc, docids, scores)))
