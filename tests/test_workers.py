"""Several processes score as one does: the same scores, the same errors, and none is left over."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import other_scorers
import pytest
import torch
from tiny_models import TEXTS, corpus

from qpeft_rerank.document_scorer import DocumentScorer
from qpeft_rerank.errors import (
    FormatError,
    InputError,
    MissingPassageError,
    PairError,
    QpeftError,
    WorkerError,
)
from qpeft_rerank.passages import Passage
from qpeft_rerank.reranker import Reranker
from qpeft_rerank.reranking import rerank
from qpeft_rerank.trec import Ranking, ScoredDoc
from qpeft_rerank.workers import Workers

HERE = Path(__file__).parents[1]
TOPICS = {str(q): f"what of {text.split()[1]}" for q, text in enumerate(TEXTS)}
RUN = [Ranking(qid, [ScoredDoc(f"d{(i + int(qid)) % 4}", -float(i)) for i in range(4)]) for qid in TOPICS]
LONG = 300.0  # seconds; no test waits for so long unless something is wrong


# ---- with a model ----


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """So that this process computes as each of two does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def load() -> partial[Reranker]:
    return partial(Reranker.from_model, "demo", dtype="float32", settings={"passage_tokens": 30})


@pytest.fixture(scope="module")
def alone(load: partial[Reranker]) -> Reranker:
    return load(device="cpu")


@pytest.fixture(scope="module")
def workers(load: partial[Reranker]) -> Iterator[Workers]:
    with Workers(load, 2, "cpu") as workers:
        yield workers


def test_scores_are_those_of_one_process(workers: Workers, alone: Reranker) -> None:
    heard: list[int] = []
    found = rerank(RUN, TOPICS, corpus(TEXTS), workers, window=2, progress=heard.append)
    assert list(found) == list(rerank(RUN, TOPICS, corpus(TEXTS), alone, window=2))
    assert sum(heard) == 4 * len(RUN)


def test_documents_are_scored_by_their_windows(workers: Workers, alone: Reranker) -> None:
    several, one = (
        list(rerank(RUN, TOPICS, corpus(TEXTS), DocumentScorer(scorer, window=5), window=2))
        for scorer in (workers, alone)
    )
    assert several == one


def test_they_say_what_they_are(workers: Workers, alone: Reranker) -> None:
    assert workers.describe() == alone.describe()
    assert (workers.weight, workers.shared_pairs) == (alone.weight, alone.shared_pairs)


def test_an_error_has_its_type_and_names_and_ends_no_process(workers: Workers, alone: Reranker) -> None:
    topics = {**TOPICS, "2": "long " * 3000}
    found, ranked = rerank(RUN, topics, corpus(TEXTS), workers, window=1), []
    with pytest.raises(PairError, match=r"topic '2', passage 'd2' \(\d+ tokens\): the query is too long"):
        ranked.extend(found)
    assert ranked == list(rerank(RUN[:2], topics, corpus(TEXTS), alone, window=1))
    pairs = [("what of bees", Passage("d", "", text)) for text in TEXTS]
    for _ in range(2):
        assert np.array_equal(workers.score(pairs), alone.score(pairs))


# ---- without one ----

TEXT = {"short": "abc", "long": "abcdef", "no": "too long", "end": "end", "fault": "fault", "who": "who"}


def passages(*docids: str) -> list[tuple[str, Passage]]:
    return [("query", Passage(docid, "", TEXT[docid])) for docid in docids]


def test_processes_take_turns_and_a_fault_is_told_with_its_type() -> None:
    with Workers(other_scorers.Lengths, 2, "cpu") as workers:
        numbers = [float(worker.process.pid) for worker in workers._workers]
        assert [workers.score(passages("who"))[0] for _ in range(4)] == numbers * 2
        scorings = [workers.begin(passages(*["short"] * n)) for n in (1, 2, 3, 4)]
        assert [len(scoring(None)) for scoring in reversed(scorings)] == [4, 3, 2, 1]
        with pytest.raises(RuntimeError, match="KeyError: 'a bug'") as fault:
            workers.score(passages("fault"))
        assert "other_scorers.py" in fault.value.__notes__[0]
        with pytest.raises(PairError) as error:
            workers.score(passages("short", "no"))
        assert (error.value.index, error.value.tokens) == (1, 9)
        assert str(error.value) == "pair 1 (9 tokens): the passage is too long"
        assert workers.score([]).shape == (0,)
        processes = [worker.process for worker in workers._workers]
        # One process gets a pair that ends it; the other's answer is still there.
        workers.score(passages("short"))
        last, before = workers.begin(passages("short", "end")), workers.begin(passages("long"))
        assert before(None).tolist() == [6]
        with pytest.raises(WorkerError, match=r"process \d of 2 \(cpu\) has ended .*\(exit code 3\)"):
            last(None)
        with pytest.raises(WorkerError):
            workers.score(passages("long"))
    assert not any(process.is_alive() for process in processes)


@pytest.mark.parametrize(
    "error",
    [
        FormatError("run.txt", 3, "five columns"),
        MissingPassageError("d1", "the index", "q"),
        PairError("too long", 5, 900, "q", "d"),
        WorkerError("gone"),
    ],
)
def test_errors_are_the_same_in_another_process(error: QpeftError) -> None:
    there = pickle.loads(pickle.dumps(error))
    assert (type(there), str(there), vars(there)) == (type(error), str(error), vars(error))


def test_what_loading_raises_is_raised() -> None:
    with pytest.raises(InputError, match="no model for cpu"):
        Workers(other_scorers.refused, 1, "cpu")


@pytest.mark.parametrize(
    "gpus, processes, device, expected",
    [
        (0, 2, None, ["cpu", "cpu"]),
        (4, 2, None, ["cuda:0", "cuda:1"]),
        (4, 2, "cuda", ["cuda:0", "cuda:1"]),
        (4, 2, "cpu", ["cpu", "cpu"]),
        (1, 2, "cuda:0", ["cuda:0", "cuda:0"]),
        (1, 2, None, "processes: 2 are too many for 1 GPUs"),
        (0, 1, "cuda", "processes: 1 are too many for 0 GPUs"),
        (4, 0, None, "processes: 0 is not at least 1"),
    ],
)
def test_each_process_has_a_gpu_where_there_are_some(
    monkeypatch: pytest.MonkeyPatch, gpus: int, processes: int, device: str | None, expected: list[str] | str
) -> None:
    started: list[str] = []

    def start(name: str, load: object, device: str) -> None:
        started.append(device)
        if len(started) == processes:
            raise InterruptedError

    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr("qpeft_rerank.workers._Worker", start)
    monkeypatch.setattr(Workers, "close", lambda self: None)
    with pytest.raises(InputError if isinstance(expected, str) else InterruptedError) as error:
        Workers(other_scorers.Lengths, processes, device)
    assert started == expected if isinstance(expected, list) else expected in str(error.value)


PROGRAM = """
import other_scorers
from qpeft_rerank.passages import Passage
from qpeft_rerank.workers import Workers
if __name__ == "__main__":
    workers = Workers(other_scorers.Lengths, 1, "cpu")
    waiting = workers.begin([("query", Passage("d", "", "wait"))])
    print("at work", flush=True)
    waiting(None)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_the_one_that_started_it(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    path = os.pathsep.join(map(str, (HERE, HERE / "tests" / "support")))
    program = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        text=True,
        start_new_session=True,
    )
    assert program.stdout and program.stderr
    assert program.stdout.readline() == "at work\n"
    # The group, as a terminal does it, but for a kill.
    (os.killpg if number == signal.SIGINT else os.kill)(program.pid, number)
    assert program.wait(LONG) == -number
    # Whoever lives holds stdout open: the end of it says that all have ended.
    assert program.stdout.read() == ""
    assert program.stderr.read().count("Traceback") == (number == signal.SIGINT)
