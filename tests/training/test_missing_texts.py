"""Topics and passages without text: an error before the first step, or left out where that is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_training import DATA, DEV, PASSAGES, QRELS, RUN, TOPICS, changed, run
from tiny_models import Corpus, tiny_base

from qpeft_rerank.errors import InputError, MissingPassageError, MissingTopicError
from qpeft_rerank.models.base import BaseModel
from qpeft_rerank.rankings import Ranking, ScoredDoc
from qpeft_rerank.training.data import TrainingData
from qpeft_rerank.training.loop import Listener


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return tiny_base()


def test_a_blank_topic_is_an_error_before_the_first_step(base: BaseModel, tmp_path: Path) -> None:
    topics = {**TOPICS, RUN[0].qid: " "}
    for data in ({"data": TrainingData(RUN, topics, QRELS)}, {"dev": TrainingData(RUN, topics, QRELS)}):
        with pytest.raises(MissingTopicError, match="topic .0. of the run has no text"):
            run(base, tmp_path / "adapter", **data)


def test_a_passage_that_will_be_needed_is_missed_before_the_first_step(
    base: BaseModel, tmp_path: Path
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("a step was taken")

    def without(data: TrainingData) -> TrainingData:
        """The first topic's last candidate has no text."""
        first, *others = data.run
        docs = [*first.docs[:-1], ScoredDoc("gone", -99.0)]
        return replace(data, run=[Ranking(first.qid, docs), *others])

    listener = Listener(on_step=never, on_epoch=never)
    for what in ({"data": without(DATA)}, {"dev": without(DEV)}):
        with pytest.raises(MissingPassageError, match="passage 'gone' .candidate of topic '[02]'. is not in"):
            run(base, tmp_path / "adapter", changed(epochs=1), listener=listener, **what)
    run(base, tmp_path / "adapter", changed(epochs=1), dev=without(DEV), depth=11)


def test_what_has_no_text_is_skipped_where_that_is_asked_for(base: BaseModel, tmp_path: Path) -> None:
    passages = Corpus(
        {docid: passage for docid, passage in PASSAGES.items() if docid not in ("d3", "d12", "d13")}
    )
    gone = PASSAGES.keys() - passages.keys()
    topics = {**TOPICS, "3": " "}
    told: list[InputError] = []
    found = run(
        base,
        tmp_path / "skipped",
        changed(epochs=2),
        data=replace(DATA, topics=topics),
        dev=replace(DEV, topics=topics),
        passages=passages,
        listener=Listener(on_missing=told.append),
        missing="skip",
    )
    named = {(type(error).__name__, getattr(error, "docid", None) or error.qid) for error in told}
    assert named == {*(("MissingPassageError", docid) for docid in gone), ("MissingTopicError", "3")}
    assert len(told) == len(named), "each once, though training and development both miss it"

    def without(data: TrainingData) -> TrainingData:
        rankings = [
            Ranking(qid, [doc for doc in docs if doc.docid not in gone])
            for qid, docs in data.run
            if qid != "3"
        ]
        qrels = {q: {d: grade for d, grade in grades.items() if d not in gone} for q, grades in QRELS.items()}
        return TrainingData(rankings, TOPICS, qrels)

    clean = run(
        base, tmp_path / "clean", changed(epochs=2), data=without(DATA), dev=without(DEV), passages=passages
    )
    weights = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("skipped", "clean")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    assert [e["dev_loss"] for e in found["epochs"]] == [e["dev_loss"] for e in clean["epochs"]]


def test_topics_that_lose_all_are_told_and_none_left_is_an_error(base: BaseModel, tmp_path: Path) -> None:
    told: list[InputError] = []
    listener = Listener(on_missing=told.append)
    few = Corpus({docid: passage for docid, passage in PASSAGES.items() if int(docid[1:]) >= 6})
    run(base, tmp_path / "few", changed(epochs=1), dev=None, passages=few, listener=listener, missing="skip")
    assert "topic '0' has no relevant passage in the test's corpus" in [str(error) for error in told]
    nothing = Corpus({"d35": PASSAGES["d35"]})
    with pytest.raises(InputError, match="no topic has both a relevant passage and a candidate that is not"):
        run(base, tmp_path / "adapter", passages=nothing, missing="skip")
    untold = replace(DATA, topics={qid: " " for qid in TOPICS})
    with pytest.raises(InputError, match="^no topic that could be learned from has a text: 5 have none$"):
        run(base, tmp_path / "adapter", data=untold, missing="skip")
    with pytest.raises(InputError, match="^missing: 'ignore' is neither"):
        run(base, tmp_path / "adapter", missing="ignore")
