"""Positives come from the qrels, negatives from the run; draws depend on seed, epoch and topic alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tiny_models import Corpus, corpus

from qpeft_rerank.errors import InputError, MissingPassageError, MissingTopicError
from qpeft_rerank.passages import Passage
from qpeft_rerank.training import groups
from qpeft_rerank.training.groups import (
    Group,
    TrainingTopic,
    check_passages,
    epoch_groups,
    step_pairs,
    training_topics,
)
from qpeft_rerank.trec import Ranking, ScoredDoc

TOPICS = {str(q): f"query {q}" for q in range(30)}
RUN = [Ranking(str(q), [ScoredDoc(f"d{d}", -float(d)) for d in range(10)]) for q in range(30)]
QRELS = {str(q): {f"d{q % 10}": 1, f"d{(q + 3) % 10}": 2, f"d{(q + 5) % 10}": 0} for q in range(30)}


def usable(
    run: list[Ranking] = RUN, qrels: dict = QRELS, limit: int = 0, seed: int = 0, depth: int = 100
) -> list[TrainingTopic]:
    return training_topics(run, TOPICS, qrels, limit, seed, depth)


def test_relevant_passages_are_positives_and_other_candidates_negatives() -> None:
    topic = usable([RUN[4]])[0]
    assert topic == TrainingTopic(
        "4", "query 4", ["d4", "d7"], ["d0", "d1", "d2", "d3", "d5", "d6", "d8", "d9"]
    )


def test_grades_below_the_level_are_neither_positives_nor_negatives() -> None:
    (topic,) = training_topics([RUN[4]], TOPICS, QRELS, 0, 0, 100, level=2)
    assert topic.positives == ["d7"] and not {"d4", "d7"} & set(topic.negatives)
    assert topic.neither == ("d4",)
    other = Group(TrainingTopic("9", "nine", ["d4"], ["d7"]), "d4", ["d1"])
    step = step_pairs([Group(topic, "d7", ["d0"]), other], corpus("abcdefgh"), in_batch=True)
    compared = [(qid, docid) for qid, docid in step.names if qid == "4"]
    assert compared == [("4", "d7"), ("4", "d0"), ("4", "d1")], "d4, of grade 1, is no negative of topic 4"
    with pytest.raises(InputError, match="no topic of the run"):
        training_topics(RUN, TOPICS, QRELS, 0, 0, 100, level=3)


def test_a_positive_need_not_be_in_the_run_and_negatives_come_from_its_top() -> None:
    topic = usable([RUN[0]], {"0": {"elsewhere": 1, "d1": 0}}, depth=3)[0]
    assert topic.positives == ["elsewhere"] and topic.negatives == ["d0", "d1", "d2"]


def test_topics_with_nothing_to_learn_from_are_left_out() -> None:
    qrels = {"0": {"d0": 0}, "1": {f"d{d}": 1 for d in range(10)}, "3": {"d1": 1}}
    assert [topic.qid for topic in usable(RUN, qrels)] == ["3"]
    with pytest.raises(InputError, match="no topic"):
        usable(RUN, {"0": {"d0": 0}})


def test_a_run_and_qrels_of_other_topics_are_shown_with_examples() -> None:
    with pytest.raises(InputError, match="no topic in common: the run has '0', '1', the qrels 'q0'"):
        usable(RUN[:2], {"q0": {"d1": 1}})


def test_a_topic_without_text_is_an_error_that_names_it() -> None:
    with pytest.raises(MissingTopicError, match="'99'"):
        usable([Ranking("99", RUN[0].docs)], {"99": {"d1": 1}})


def test_a_sample_does_not_depend_on_the_order_of_the_run() -> None:
    sample = usable(limit=7)
    assert usable(RUN[::-1], limit=7) == sample and len(sample) == 7
    assert usable(limit=7, seed=1) != sample and len(usable(limit=100)) == 30


def test_an_epoch_is_drawn_from_seed_and_epoch_whatever_the_order() -> None:
    def drawn(topics: list[TrainingTopic], seed: int, epoch: int | None) -> list[Group]:
        return epoch_groups(topics, 2, seed, epoch)

    first = drawn(usable(), 0, 1)
    assert first == drawn(usable(RUN[::-1]), 0, 1) != drawn(usable(), 0, 2) != drawn(usable(), 1, 2)
    assert sorted(g.topic.qid for g in first) == sorted(TOPICS) and [g.topic.qid for g in first] != sorted(
        TOPICS
    )
    for group in first:
        assert group.positive in group.topic.positives
        assert len(set(group.negatives)) == 2 and set(group.negatives) <= set(group.topic.negatives)


def test_development_groups_are_always_the_same() -> None:
    fixed = epoch_groups(usable(), 2, 0, None)
    assert fixed == epoch_groups(usable(), 2, 5, None)
    assert all(g.positive == g.topic.positives[0] and g.negatives == g.topic.negatives[:2] for g in fixed)


def test_every_epoch_draws_anew_and_few_negatives_are_all_taken() -> None:
    drawn = {
        (g.positive, *g.negatives)
        for epoch in range(1, 20)
        for g in epoch_groups(usable([RUN[0]]), 1, 0, epoch)
    }
    assert len(drawn) > 5
    assert len(epoch_groups(usable([RUN[0]], depth=2), 5, 0, 1)[0].negatives) < 5


GROUPS = [
    Group(TrainingTopic("1", "one", ["d0", "d1"], ["d2"]), "d0", ["d2"]),
    Group(TrainingTopic("2", "two", ["d1"], ["d3"]), "d1", ["d3"]),
    Group(TrainingTopic("3", "three", ["d4"], ["d2"]), "d4", ["d2"]),
]
PASSAGES = corpus("abcde")


def compared(in_batch: bool) -> set[tuple[str, str, str]]:
    """(query, positive, negative) of every comparison."""
    step = step_pairs(GROUPS, PASSAGES, in_batch)
    pairs = [(query, passage.docid) for query, passage in step.pairs]
    assert len(set(pairs)) == len(pairs), "each pair goes in once"
    assert set(step.positive) | set(step.negative) == set(range(len(pairs))), "and serves for something"
    found = [(*pairs[p], pairs[n][1]) for p, n in zip(step.positive, step.negative, strict=True)]
    assert all(pairs[p][0] == pairs[n][0] for p, n in zip(step.positive, step.negative, strict=True))
    assert len(set(found)) == len(found)
    return set(found)


def test_without_in_batch_negatives_each_topic_keeps_to_itself() -> None:
    assert compared(False) == {("one", "d0", "d2"), ("two", "d1", "d3"), ("three", "d4", "d2")}


def test_the_other_passages_of_the_step_are_negatives_but_never_relevant_ones() -> None:
    assert compared(True) == {
        ("one", "d0", "d2"),
        ("one", "d0", "d3"),
        ("one", "d0", "d4"),  # d1 is relevant to topic 1
        ("two", "d1", "d3"),
        ("two", "d1", "d0"),
        ("two", "d1", "d2"),
        ("two", "d1", "d4"),
        ("three", "d4", "d2"),
        ("three", "d4", "d0"),
        ("three", "d4", "d1"),
        ("three", "d4", "d3"),
    }


def test_each_pair_of_a_step_has_its_ids() -> None:
    step = step_pairs(GROUPS, PASSAGES, True)
    assert [docid for _, docid in step.names] == [passage.docid for _, passage in step.pairs]
    queries = {group.topic.qid: group.topic.query for group in GROUPS}
    assert [queries[qid] for qid, _ in step.names] == [query for query, _ in step.pairs]


def test_texts_are_looked_up_once_and_a_missing_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted(Corpus):
        def get(self, docids: Sequence[str]) -> dict[str, Passage]:
            asked.append(list(docids))
            return super().get(docids)

    asked: list[list[str]] = []
    passages = Counted(PASSAGES)
    monkeypatch.setattr(groups, "LOOK_UP", 3)
    check_passages([("1", ["d0", "d1"]), ("2", ["d1", "d2", "d3"]), ("3", ["d0"])], passages)
    assert asked == [["d0", "d1", "d2"], ["d3"]]
    with pytest.raises(MissingPassageError, match="'d9'.*'2'"):
        check_passages([("1", ["d0", "d1"]), ("2", ["d4", "d9"]), ("3", ["d9"])], passages)


def test_a_passage_without_text_is_an_error_that_names_it_and_its_topic() -> None:
    with pytest.raises(MissingPassageError, match="'d4'.*'3'"):
        step_pairs(GROUPS, corpus("abcd"), False)
