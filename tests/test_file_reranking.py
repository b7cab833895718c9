"""A reranking to a file, called from a program: what it writes, its record, what it goes on with."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from tiny_models import corpus

from qpeft_rerank.errors import InputError, MissingTopicError
from qpeft_rerank.file_reranking import rerank_to_file
from qpeft_rerank.passages import Passage
from qpeft_rerank.reranking import rerank
from qpeft_rerank.trec import Ranking, ScoredDoc, format_ranking, read_run, write_run

PASSAGES = corpus("x" * length for length in (5, 3, 9, 1, 7, 3))
TOPICS = {"1": "one", "2": "two", "3": "three"}
RUN = [Ranking(qid, [ScoredDoc(f"d{n}", 9.0 - n) for n in range(6)]) for qid in TOPICS]


class ByLength:
    """The longer the passage, the better; what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def score(
        self, pairs: Sequence[tuple[str, Passage]], progress: Callable[[int], None] | None = None
    ) -> np.ndarray:
        self.asked += dict.fromkeys(query for query, _ in pairs)
        return np.array([len(passage.text) for _, passage in pairs], dtype=np.float32)

    def describe(self) -> dict[str, str]:
        return {"measure": "length"}


def test_the_file_holds_what_the_stage_gives_and_the_record_what_it_was_made_of(tmp_path: Path) -> None:
    write_run(RUN, tmp_path / "run.txt", "bm25")
    output = tmp_path / "out.txt"
    assert rerank_to_file(tmp_path / "run.txt", TOPICS, PASSAGES, ByLength(), output, depth=4) == 3
    expected = rerank(read_run(tmp_path / "run.txt"), TOPICS, PASSAGES, ByLength(), 4)
    assert output.read_text() == "".join(format_ranking(one, "reranked") for one in expected)
    record = json.loads((tmp_path / "out.txt.json").read_text())
    assert record["settings"] | {"measure": "length", "depth": 4, "weight": 1.0} == record["settings"]
    assert record["run"] == str(tmp_path / "run.txt") and len(record["run_sha256"]) == 64


def test_a_reranking_that_a_missing_text_has_stopped_goes_on_with_or_without_it(tmp_path: Path) -> None:
    def attempt(topics: dict[str, str], **options: object) -> list[str]:
        scorer = ByLength()
        rerank_to_file(RUN, topics, PASSAGES, scorer, tmp_path / "out.txt", window=1, **options)
        return scorer.asked

    lacking = {qid: text for qid, text in TOPICS.items() if qid != "3"}
    for topics, options in ((TOPICS, {}), (lacking, {"missing": "skip"})):
        with pytest.raises(MissingTopicError):
            attempt(lacking)
        with pytest.raises(InputError, match="topic '2' had another query"):
            attempt({**TOPICS, "2": "too"}, resume=True)
        assert attempt(topics, resume=True, **options) == [text for qid, text in topics.items() if qid == "3"]
        assert [ranking.qid for ranking in read_run(tmp_path / "out.txt")] == list(TOPICS)
        (tmp_path / "out.txt").unlink()


def test_the_topics_that_are_scored_together_stay_the_same_when_a_run_is_resumed(tmp_path: Path) -> None:
    class Sharing(ByLength):
        shared_pairs = 600  # a topic's six passages: 100 topics together instead of 133

    output = tmp_path / "out.txt"
    run = [Ranking(str(topic), [ScoredDoc(f"d{n}", 9.0 - n) for n in range(6)]) for topic in range(250)]
    topics = {ranking.qid: "query" for ranking in run}
    with pytest.raises(MissingTopicError):
        rerank_to_file(run, topics | {"120": ""}, PASSAGES, Sharing(), output, depth=6)
    assert json.loads((tmp_path / "out.txt.partial.json").read_text())["window"] == 100
    mended = [run[0], *(Ranking(r.qid, [ScoredDoc("d0", 1.0)]) for r in run[100:])]
    heard: list[int] = []
    with pytest.raises(InputError, match="topic '1'"):
        rerank_to_file(mended, topics, PASSAGES, Sharing(), output, depth=6, resume=True)
    mended = [*run[:100], *mended[1:]]
    rerank_to_file(mended, topics, PASSAGES, Sharing(), output, depth=6, resume=True, on_resumed=heard.append)
    assert heard == [100]


def test_a_scorer_that_does_not_say_what_it_is_cannot_go_on_for_another(tmp_path: Path) -> None:
    class Nameless:
        score = ByLength().score

    asked = (RUN, TOPICS, PASSAGES, Nameless(), tmp_path / "out.txt")
    with pytest.raises(InputError, match="resume: the scorer has no describe"):
        rerank_to_file(*asked, resume=True)
    assert rerank_to_file(*asked, resume=True, settings={"scorer": "length"}) == 3
    with pytest.raises(InputError, match="scorer was 'length' and is now 'width'"):
        rerank_to_file(*asked, resume=True, settings={"scorer": "width"})


def test_an_input_is_not_replaced_nor_a_folder_a_device_or_stdout(tmp_path: Path) -> None:
    write_run(RUN, tmp_path / "run.txt", "bm25")
    os.mkfifo(tmp_path / "pipe")
    run, pipe = tmp_path / "run.txt", tmp_path / "pipe"
    for output, said in ((run, "the input"), (tmp_path, "a folder"), (pipe, "no file"), ("-", "no file")):
        with pytest.raises(InputError, match=said):
            rerank_to_file(run, TOPICS, PASSAGES, ByLength(), output)
    assert pipe.is_fifo() and {file.name for file in tmp_path.iterdir()} == {"run.txt", "pipe"}


@pytest.mark.parametrize(
    "passages, options, said",
    [
        (PASSAGES, {"depth": 0}, "depth: 0 is not at least 1"),
        (PASSAGES, {"weight": 2.0}, "weight: 2.0 is not between 0 and 1"),
        ("corpus.jsonl", {}, "passages: open them with open_passages"),
    ],
)
def test_what_is_impossible_is_said_and_nothing_written(
    tmp_path: Path, passages: object, options: dict[str, object], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        rerank_to_file(RUN, TOPICS, passages, ByLength(), tmp_path / "out.txt", **options)
    assert not list(tmp_path.iterdir())
