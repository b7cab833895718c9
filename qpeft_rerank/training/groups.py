"""Run + qrels -> training groups: a topic, one of its relevant passages, hard negatives from its candidates.

Everything is drawn from (seed, epoch, topic id), so that a resumed training sees what an undisturbed one
sees.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from qpeft_rerank.errors import InputError, MissingPassageError, MissingTopicError, examples
from qpeft_rerank.passages import Passage, Passages
from qpeft_rerank.rankings import Ranking

LOOK_UP = 10_000  # passages that are looked up at a time
OnMissing = Callable[[InputError], None]


def stop(error: InputError) -> None:
    """What to do about a text that is not there, if nothing else was asked for."""
    raise error


def once(on_missing: OnMissing) -> OnMissing:
    """The same, told of each text but once."""
    told: set[str] = set()

    def tell(error: InputError) -> None:
        name = f"passage {error.docid}" if isinstance(error, MissingPassageError) else str(error)
        if name not in told:
            told.add(name)
            on_missing(error)

    return tell


class TrainingTopic(NamedTuple):
    """A topic that can be learned from: relevant passages by the qrels, candidates that are not (best
    first), and passages that are neither, since their grade is above 0 and below that of a positive.
    """

    qid: str
    query: str
    positives: list[str]
    negatives: list[str]
    neither: tuple[str, ...] = ()


class Group(NamedTuple):
    """One topic of a training step: its query, one relevant passage, some hard negatives."""

    topic: TrainingTopic
    positive: str
    negatives: list[str]


def training_topics(
    run: Iterable[Ranking],
    topics: Mapping[str, str],
    qrels: Mapping[str, Mapping[str, int]],
    limit: int,
    seed: int,
    depth: int,
    level: int = 1,
    on_missing: OnMissing = stop,
) -> list[TrainingTopic]:
    """Topics of the run with at least one relevant passage (grade ``level`` or more) and one candidate whose
    grade is not above 0.

    Args:
        run: candidates; only the first ``depth`` of a topic can be negatives.
        topics: query texts.
        qrels: grades by topic and passage.
        limit: sample this many (0: all); the sample depends on the topic ids and the seed only.
        level: grades from here on are positives, those below 1 negatives.
        on_missing: hears of a topic that has no text, or a blank one, and is left out.

    Raises:
        InputError: no topic can be used.
    """
    usable, seen, without_text = [], [], 0
    for qid, docs in run:
        seen.append(qid)
        grades = qrels.get(qid, {})
        positives = sorted(docid for docid, grade in grades.items() if grade >= level)
        negatives = [doc.docid for doc in docs[:depth] if grades.get(doc.docid, 0) < 1]
        if positives and negatives:
            if not topics.get(qid, "").strip():
                on_missing(MissingTopicError(qid, blank=qid in topics))
                without_text += 1
                continue
            neither = tuple(sorted(docid for docid, grade in grades.items() if 1 <= grade < level))
            usable.append(TrainingTopic(qid, topics[qid], positives, negatives, neither))
    if not usable:
        if without_text:
            raise InputError(f"no topic that could be learned from has a text: {without_text} have none")
        if seen and qrels and qrels.keys().isdisjoint(seen):
            raise InputError(
                "the run and the qrels have no topic in common: "
                f"the run has {examples(seen)}, the qrels {examples(qrels)}"
            )
        raise InputError(
            "no topic of the run has both a relevant passage in the qrels and a candidate that is not"
        )
    if 0 < limit < len(usable):
        chosen = set(random.Random(seed).sample(sorted(topic.qid for topic in usable), limit))
        usable = [topic for topic in usable if topic.qid in chosen]
    return sorted(usable, key=lambda topic: topic.qid)  # whatever the order of the run


def check_passages(
    wanted: Iterable[tuple[str, Iterable[str]]], passages: Passages, on_missing: OnMissing = stop
) -> set[str]:
    """Look up what topics will need before hours of training; returns what is not there.

    Args:
        wanted: topic and docids.
        passages: where they should be.
        on_missing: hears of each passage that is not there, once.
    """
    topic_of: dict[str, str] = {}
    for qid, docids in wanted:
        for docid in docids:
            topic_of.setdefault(docid, qid)
    missing: set[str] = set()
    left = iter(topic_of)
    while part := list(islice(left, LOOK_UP)):
        found = passages.get(part)
        for docid in part:
            if docid not in found:
                on_missing(MissingPassageError(docid, passages.name, topic_of[docid]))
                missing.add(docid)
    return missing


def with_passages(
    topics: Sequence[TrainingTopic], passages: Passages, on_missing: OnMissing = stop
) -> list[TrainingTopic]:
    """The topics without those of their passages that are not there; one with no positive or no negative left
    goes, and is told of. Raises InputError if none is left.
    """
    wanted = ((topic.qid, [*topic.positives, *topic.negatives]) for topic in topics)
    missing = check_passages(wanted, passages, on_missing)
    if not missing:
        return list(topics)
    left = []
    for topic in topics:
        positives = [docid for docid in topic.positives if docid not in missing]
        negatives = [docid for docid in topic.negatives if docid not in missing]
        if positives and negatives:
            left.append(topic._replace(positives=positives, negatives=negatives))
        else:
            what = "candidate that is not relevant" if positives else "relevant passage"
            on_missing(InputError(f"topic {topic.qid!r} has no {what} in {passages.name}"))
    if not left:
        raise InputError(
            f"no topic has both a relevant passage and a candidate that is not relevant in {passages.name}"
        )
    return left


def epoch_groups(
    topics: Sequence[TrainingTopic], negatives: int, seed: int, epoch: int | None
) -> list[Group]:
    """One group per topic, shuffled; ``epoch`` None gives the fixed groups of development (first positive,
    first negatives).
    """
    if epoch is None:
        return [Group(t, t.positives[0], t.negatives[:negatives]) for t in topics]
    groups = []
    for topic in topics:
        draw = random.Random(f"{seed} {epoch} {topic.qid}")
        groups.append(
            Group(
                topic,
                draw.choice(topic.positives),
                draw.sample(topic.negatives, min(negatives, len(topic.negatives))),
            )
        )
    random.Random(f"{seed} {epoch}").shuffle(groups)
    return groups


class StepPairs(NamedTuple):
    """The pairs of one step, each once, and which of them are compared.

    ``positive[m]`` and ``negative[m]`` are places in ``pairs`` of the m-th comparison; ``names`` has each
    pair's qid and docid.
    """

    pairs: list[tuple[str, Passage]]
    positive: list[int]
    negative: list[int]
    names: Sequence[tuple[str, str]] = ()


def step_pairs(groups: Sequence[Group], passages: Passages, in_batch: bool) -> StepPairs:
    """Each topic of the step with its own passages and, if ``in_batch``, with the others' (but those relevant
    to it, or partly so).

    Raises:
        MissingPassageError: a passage is not in ``passages``.
    """
    docids = list(dict.fromkeys(docid for g in groups for docid in (g.positive, *g.negatives)))
    texts = passages.get(docids)
    pairs: list[tuple[str, Passage]] = []
    positive, negative, names = [], [], []
    for group in groups:
        own = list(dict.fromkeys((group.positive, *group.negatives)))
        no_negatives = {*own, *group.topic.positives, *group.topic.neither}
        others = [d for d in docids if d not in no_negatives] if in_batch else []
        for docid in own + others:
            if docid not in texts:
                raise MissingPassageError(docid, passages.name, group.topic.qid)
        start = len(pairs)
        pairs += [(group.topic.query, texts[docid]) for docid in own + others]
        names += [(group.topic.qid, docid) for docid in own + others]
        negative += range(start + 1, len(pairs))
        positive += [start] * (len(pairs) - start - 1)
    return StepPairs(pairs, positive, negative, names)
