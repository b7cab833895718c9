"""The rerank stage: rankings in, rankings out, a window of topics at a time.

While one window is scored, the next is read, and its texts are looked up and tokenised, in a thread.

Only the candidates down to ``depth`` are scored; the rest keep their order below them, and so do candidates
whose text cannot be found (with ``missing="skip"``): no candidate is lost. A model's scores may be
interpolated with the first stage's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import NamedTuple

import numpy as np

from qpeft_rerank.errors import (
    InputError,
    MissingPassageError,
    MissingTopicError,
    PairError,
    QpeftError,
    named_pairs,
)
from qpeft_rerank.files import is_source
from qpeft_rerank.frames import Frame
from qpeft_rerank.fusion import interpolated
from qpeft_rerank.passages import Passage, Passages
from qpeft_rerank.prefetch import map_ahead
from qpeft_rerank.rankings import Ranking, ScoredDoc
from qpeft_rerank.reranker import WINDOW_PAIRS, PairScorer, Progress, Scoring, begin
from qpeft_rerank.run_scores import strictly_decreasing
from qpeft_rerank.settings import MISSING
from qpeft_rerank.topics import Topics, as_topics
from qpeft_rerank.trec import Run, as_rankings


def plan_window(
    rankings: Iterable[Ranking], depth: int, scorer: PairScorer, passages: Passages
) -> tuple[int, Iterator[Ranking]]:
    """How many topics to score together, and the rankings with those that were looked at put back.

    Topics with the scorer's ``shared_pairs`` pairs if the first ones share candidates (a small collection),
    so that each passage is run for many topics at once; fewer where documents are cut to windows.
    """
    rankings = iter(rankings)
    window = max(1, WINDOW_PAIRS // depth)
    first = list(islice(rankings, window))
    docids = [doc.docid for ranking in first for doc in ranking.docs[:depth]]
    if len(set(docids)) < 0.9 * len(docids):
        window = max(1, getattr(scorer, "shared_pairs", WINDOW_PAIRS) // depth)
    if first and hasattr(scorer, "topics_together"):
        found = passages.get([doc.docid for doc in first[0].docs[:depth]])
        window = scorer.topics_together(window, list(found.values()))
    return window, chain(first, rankings)


def rerank(
    rankings: Run,
    topics: Topics,
    passages: Passages,
    scorer: PairScorer,
    depth: int = 100,
    missing: str = "error",
    on_missing: Callable[[QpeftError], None] | None = None,
    progress: Progress | None = None,
    window: int | None = None,
    weight: float | None = None,
) -> Iterator[Ranking]:
    """Re-order each ranking's first ``depth`` candidates by the scorer.

    Args:
        rankings: a run (`trec.Run`); of topics gone by, ids alone are kept. Read in a thread of its own.
        topics: query text by topic id, or a file, name or data frame of topics.
        passages: where candidates' texts come from (`open_passages`); asked in that thread, too.
        scorer: a `Reranker`, or anything with ``score(pairs)``.
        depth: how many candidates of a topic are scored.
        missing: ``error``, or ``skip``: a topic without text, or a blank one, stays as it is, a passage
            without text goes below the scored ones.
        on_missing: hears of each of these.
        progress: called with numbers of scored pairs.
        window: how many topics are scored together; by default what `plan_window` says.
        weight: the share, 0 to 1, of the scorer in a candidate's score; the first stage has the rest. Below
            1, both are z-scores over the topic's scored candidates; with 1 the scores are the scorer's own.
            By default the scorer's ``weight``, if it has one, else 1.

    Raises:
        InputError: an argument has a value that is not possible, or the run is empty or has a topic twice.
        MissingTopicError, MissingPassageError: as they say.
        PairError: a pair that cannot be scored, by qid and docid.
    """
    weight = getattr(scorer, "weight", 1.0) if weight is None else weight
    check_arguments(passages, depth, missing, window, weight)
    rankings, topics = as_rankings(rankings), as_topics(topics)
    if window is None:
        window, rankings = plan_window(rankings, depth, scorer, passages)

    def prepare(part: list[Ranking]) -> Window:
        return _prepare(part, topics, passages, scorer, depth, missing == "error")

    windows = iter(lambda: list(islice(rankings, window)), [])
    empty = True
    for prepared in map_ahead(prepare, windows, getattr(scorer, "ahead", 1)):
        empty = False
        yield from _finish(prepared, on_missing or _ignore, progress, weight)
    if empty:
        raise InputError("the run is empty: there is nothing to rerank")


def check_arguments(passages: Passages, depth: int, missing: str, window: int | None, weight: float) -> None:
    """Raise `InputError` for an argument of `rerank` that is not possible."""
    if is_source(passages) or type(passages) is dict or isinstance(passages, Frame):  # their `get` is another
        raise InputError("passages: open them with open_passages(index=...) or open_passages(corpus=...)")
    if depth < 1:
        raise InputError(f"depth: {depth} is not at least 1")
    if window is not None and window < 1:
        raise InputError(f"window: {window} is not at least 1")
    if missing not in MISSING:
        raise InputError(f"missing: {missing!r} is neither 'error' nor 'skip'")
    if not 0 <= weight <= 1:
        raise InputError(f"weight: {weight!r} is not between 0 and 1")


class Window(NamedTuple):
    """Topics that are scored together, ready to be scored.

    Attributes:
        rankings: of these topics.
        pairs: topic and candidate of each pair, in the order of the scores.
        missing: what has no text.
        score: gives the scores.
    """

    rankings: list[Ranking]
    pairs: list[tuple[str, ScoredDoc]]
    missing: list[QpeftError]
    score: Scoring


def _prepare(
    rankings: list[Ranking],
    topics: Mapping[str, str],
    passages: Passages,
    scorer: PairScorer,
    depth: int,
    stop_at_missing: bool,
) -> Window:
    """Look the texts up and begin with them."""
    # A model would rank for a blank query too, but by nothing.
    queries = {r.qid: topics[r.qid] for r in rankings if topics.get(r.qid, "").strip()}
    missing: list[QpeftError] = [
        MissingTopicError(r.qid, blank=r.qid in topics) for r in rankings if r.qid not in queries
    ]
    if missing and stop_at_missing:
        raise missing[0]
    texts = passages.get(list({doc.docid: None for ranking in rankings for doc in ranking.docs[:depth]}))
    pairs: list[tuple[str, Passage]] = []
    names: list[tuple[str, ScoredDoc]] = []
    for qid, docs in rankings:
        for doc in docs[:depth] if qid in queries else ():
            if doc.docid in texts:
                pairs.append((queries[qid], texts[doc.docid]))
                names.append((qid, doc))
            else:
                missing.append(MissingPassageError(doc.docid, passages.name, qid))
    if missing and stop_at_missing:
        raise missing[0]
    with named_pairs([(qid, doc.docid) for qid, doc in names]):
        return Window(rankings, names, missing, begin(scorer, pairs))


def _finish(
    window: Window, on_missing: Callable[[QpeftError], None], progress: Progress | None, weight: float
) -> Iterator[Ranking]:
    """Score a window and reorder its rankings."""
    for error in window.missing:
        on_missing(error)
    with named_pairs([(qid, doc.docid) for qid, doc in window.pairs]):
        scores = np.asarray(window.score(progress), dtype=np.float32).tolist()
    scored: dict[str, list[tuple[ScoredDoc, float]]] = {ranking.qid: [] for ranking in window.rankings}
    for (qid, doc), score in zip(window.pairs, scores, strict=True):
        if not math.isfinite(score):  # a Reranker says so itself, another scorer may not
            raise PairError(f"the score is {score}", qid=qid, docid=doc.docid)
        scored[qid].append((doc, score))
    for qid, docs in window.rankings:
        yield Ranking(qid, reorder(docs, scored[qid], weight))


def _ignore(error: QpeftError) -> None:
    pass


def reorder(
    docs: list[ScoredDoc], scored: list[tuple[ScoredDoc, float]], weight: float = 1.0
) -> list[ScoredDoc]:
    """The scored candidates by their new score (equal ones in their old order), then the others in their old
    order; ``weight`` as for `rerank`.

    Scores decrease strictly, as they will when they are written, so that measures in memory are those of the
    file: an equal one is lowered by the smallest step that float32 has. The others' go down from the lowest
    new score by such steps: old and new scores cannot be compared, and wider steps would weigh in wherever
    scores are normalised later.
    """
    if not scored:
        return docs
    if weight < 1:
        old, new = np.array([[doc.score, score] for doc, score in scored]).T
        together = interpolated(old, new, weight).astype(np.float32).tolist()
        scored = [(doc, score) for (doc, _), score in zip(scored, together, strict=True)]
    scored = sorted(scored, key=lambda item: -item[1])
    scores = strictly_decreasing([score for _, score in scored]).tolist()
    first = [ScoredDoc(doc.docid, score) for (doc, _), score in zip(scored, scores, strict=True)]
    done = {doc.docid for doc in first}
    rest = [doc.docid for doc in docs if doc.docid not in done]
    # Two steps at first: what is one step apart counts as equal there (`fusion.normalized`).
    below = strictly_decreasing([first[-1].score] * (len(rest) + 2))[2:].tolist()
    return first + list(map(ScoredDoc, rest, below))
