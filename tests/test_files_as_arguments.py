"""Where a function takes a run, topics or qrels, a file of them will do; anything else is a clear error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qpeft_rerank import (
    FusionConfig,
    Passage,
    QpeftError,
    Ranking,
    Reranker,
    ScoredDoc,
    TrainingData,
    document_run,
    evaluate,
    fuse,
    pool_runs,
    rerank,
    tune_weights,
    write_qrels,
    write_run,
    write_topics,
)
from qpeft_rerank.errors import InputError

RUN = [Ranking(qid, [ScoredDoc("a#1", 2.0), ScoredDoc("b#1", 1.0)]) for qid in ("1", "007")]
TOPICS = {"1": "one", "007": "bond"}
QRELS = {"1": {"b#1": 1}, "007": {"a#1": 1}}


class Texts:
    name = "texts"

    def get(self, docids: Sequence[str]) -> dict[str, Passage]:
        return {docid: Passage(docid, "", docid) for docid in docids}


class Last:
    """A scorer: the last passage is the best."""

    def score(self, pairs: Sequence[tuple[str, Passage]], progress: Any = None) -> np.ndarray:
        return np.arange(len(pairs), dtype=np.float32)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_may_stand_for_what_is_in_it(kind: Callable[[Path], Any], tmp_path: Path) -> None:
    paths = [kind(tmp_path / name) for name in ("run.txt", "topics.tsv", "qrels.txt")]
    for write, content, path in zip((write_run, write_topics, write_qrels), (RUN, TOPICS, QRELS), paths):
        write(content, path, *(["tag"] if write is write_run else []))
    run, topics, qrels = paths
    assert list(rerank(run, topics, Texts(), Last())) == list(rerank(RUN, TOPICS, Texts(), Last()))
    assert list(fuse([run, run])) == list(fuse([RUN, RUN]))
    assert list(document_run(run)) == list(document_run(RUN))
    assert evaluate(run, qrels, ["RR@10"]).means == evaluate(RUN, QRELS, ["RR@10"]).means
    pools = list(pool_runs([run, RUN], FusionConfig()))
    assert tune_weights(pools, qrels, "RR@10") == tune_weights(pools, QRELS, "RR@10")
    data = TrainingData(run, topics, qrels)
    assert (list(data.run), data.topics, data.qrels) == (RUN, TOPICS, QRELS)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: list(rerank("none.txt", TOPICS, Texts(), Last())), "run file not found: none.txt"),
        (lambda: list(rerank(TOPICS, TOPICS, Texts(), Last())), "run: expected rankings"),
        (lambda: list(rerank(RUN, list(TOPICS), Texts(), Last())), "topics: expected a file .* found list"),
        (lambda: list(rerank(RUN, TOPICS, "corpus.jsonl", Last())), "passages: open them with open_passages"),
        (
            lambda: list(rerank(RUN, TOPICS, {"a#1": "text"}, Last())),
            "passages: open them with open_passages",
        ),
        (lambda: list(fuse([RUN, 7])), "run: expected a file .* found int"),
        (lambda: evaluate(RUN, [("1", "a", 1)]), "qrels: expected a file .* found list"),
        (lambda: Reranker.from_model("demo", device="cpu").rerank("q", ["a text"]), "a Passage .* found str"),
    ],
)
def test_what_is_neither_is_an_error_that_says_what_was_expected(
    call: Callable[[], Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        call()
    assert isinstance(error.value, QpeftError)


def test_a_run_in_a_file_serves_any_number_of_trainings(tmp_path: Path) -> None:
    write_run(RUN, tmp_path / "run.txt", "tag")
    data = TrainingData(str(tmp_path / "run.txt"), TOPICS, QRELS)
    assert list(data.run) == list(data.run) == RUN
    again = replace(data, topics=TOPICS)
    assert list(again.run) == RUN


def test_an_iterator_that_was_gone_through_says_so() -> None:
    data = TrainingData(iter(RUN), TOPICS, QRELS)
    assert list(data.run) == RUN
    with pytest.raises(InputError, match="the run is empty .it was read before"):
        list(data.run)
