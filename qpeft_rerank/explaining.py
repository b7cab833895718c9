"""Why the passages at the top of a run have their scores: what the model says of each token of the query."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from qpeft_rerank.errors import InputError, MissingTopicError, named_pairs
from qpeft_rerank.models.explain import Explanation
from qpeft_rerank.passages import Passage, Passages, all_passages
from qpeft_rerank.reranker import Reranker
from qpeft_rerank.topics import Topics, as_topics
from qpeft_rerank.trec import Run, as_rankings


class ExplainedPassage(NamedTuple):
    """Attributes:
    qid, query: the topic.
    rank: place of the passage in the run, from 1.
    score: its score there.
    passage: the passage.
    why: what the model says of it.
    before: its place, from 1, and score in the first stage's run; None if it is not there or no such run was
        given.
    """

    qid: str
    query: str
    rank: int
    score: float
    passage: Passage
    why: Explanation
    before: tuple[int, float] | None = None


def explain_run(
    rankings: Run,
    topics: Topics,
    passages: Passages,
    reranker: Reranker,
    depth: int = 3,
    qids: Iterable[str] = (),
    first_stage: Run | None = None,
) -> Iterator[ExplainedPassage]:
    """Explain the first ``depth`` passages of each ranking.

    Args:
        rankings: a run (`trec.Run`); best one that the same reranker made.
        topics: query text by topic id, or a file, name or data frame of topics.
        passages: where the texts come from (`open_passages`).
        reranker: its method must be a query likelihood.
        depth: passages of each topic.
        qids: these topics only, if there are any.
        first_stage: the run that was reranked, to show where a passage stood. Held in memory: all of it, or
            the topics of ``qids``.

    Raises:
        InputError: ``depth`` is below 1, the method is no query likelihood, the run is empty, or a topic of
            ``qids`` is not in it, or one that is explained not in ``first_stage``.
        MissingTopicError, MissingPassageError: a text is not there. PairError: a pair does not fit the model.
    """
    if depth < 1:
        raise InputError(f"depth: {depth} is not at least 1")
    topics, wanted, empty = as_topics(topics), dict.fromkeys(qids), True
    chosen = bool(wanted)
    before = {
        qid: {doc.docid: (rank, doc.score) for rank, doc in enumerate(docs, 1)}
        for qid, docs in (() if first_stage is None else as_rankings(first_stage, "the first stage's run"))
        if not chosen or qid in wanted
    }
    for qid, docs in as_rankings(rankings):
        empty = False
        if chosen and qid not in wanted:
            continue
        wanted.pop(qid, None)
        if first_stage is not None and qid not in before:
            raise InputError(f"topic {qid!r} of the run is not in the first stage's run")
        stood = before.get(qid, {})
        query = topics.get(qid, "")
        if not query.strip():
            raise MissingTopicError(qid, blank=qid in topics)
        texts = all_passages(passages, [doc.docid for doc in docs[:depth]], qid)
        for rank, (docid, score) in enumerate(docs[:depth], 1):
            with named_pairs([(qid, docid)]):
                why = reranker.explain(query, texts[docid])
            yield ExplainedPassage(qid, query, rank, score, texts[docid], why, stood.get(docid))
    if empty:
        raise InputError("the run is empty: there is nothing to explain")
    if wanted:
        raise InputError(f"topic {next(iter(wanted))!r} is not in the run")
