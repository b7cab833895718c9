"""Working ahead changes nothing that can be seen: order, errors, and what is read are those of `map`."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from qpeft_rerank.prefetch import map_ahead

HERE = Path(__file__).parents[1]
LONG = 300.0  # seconds; no test waits for so long unless something is wrong


def threads_ahead() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("ahead of")]


def all_have_ended() -> bool:
    for thread in threads_ahead():
        thread.join(LONG)
    return not threads_ahead()


@pytest.mark.parametrize("ahead", [1, 3])
def test_results_come_in_order_and_the_thread_ends(ahead: int) -> None:
    assert list(map_ahead(str, range(100), ahead)) == list(map(str, range(100)))
    assert list(map_ahead(str, [], ahead)) == [] and all_have_ended()


@pytest.mark.parametrize("ahead", [1, 3])
def test_the_next_results_are_made_meanwhile_and_no_more_than_asked_for(ahead: int) -> None:
    made = {i: threading.Event() for i in range(10)}
    found = map_ahead(lambda i: made[i].set() or i, range(10), ahead)
    for i in found:
        for j in range(i, min(i + 1 + ahead, 10)):
            assert made[j].wait(LONG)
        assert not any(made[j].is_set() for j in range(i + 1 + ahead, 10))


def test_an_error_comes_after_all_results_before_it() -> None:
    def broken() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("three")

    for found, error in (
        (map_ahead(str, broken(), 3), KeyError),
        (map_ahead(lambda i: str(6 // (3 - i) // (3 - i) and i), [1, 2, 3, 4], 3), ZeroDivisionError),
    ):
        assert [next(found), next(found)] == ["1", "2"]
        with pytest.raises(error):
            next(found)
    assert all_have_ended()


def test_closing_waits_for_work_but_not_for_items() -> None:
    pipe, began, go, done = threading.Event(), threading.Event(), threading.Event(), []

    def slow(item: int) -> int:
        if item == 2:
            began.set()
            assert go.wait(LONG)
            done.append(item)
        return item

    def silent() -> Iterator[int]:
        yield 1
        assert pipe.wait(LONG)
        yield 2

    found = map_ahead(slow, [1, 2, 3])
    assert next(found) == 1 and began.wait(LONG)
    threading.Timer(0.05, go.set).start()
    found.close()
    assert done == [2] and all_have_ended()

    found = map_ahead(slow, silent())
    assert next(found) == 1
    found.close()  # does not hang
    assert threads_ahead()
    pipe.set()
    assert all_have_ended() and done == [2], "what comes later is not worked on"


PROGRAM = """
from qpeft_rerank.prefetch import map_ahead
from qpeft_rerank.trec import read_run
for ranking in map_ahead(lambda ranking: ranking.qid, read_run("-")):
    print(ranking, flush=True)
    {then}
"""


@pytest.mark.parametrize("then, code", [("break", 0), ("raise SystemExit(7)", 7), ("", -2)])
def test_a_program_ends_at_once_while_its_input_is_silent(then: str, code: int) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(then=then)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HERE)},
    )
    assert program.stdin and program.stdout and program.stderr
    program.stdin.write("1 Q0 a 1 1 tag\n2 Q0 a 1 1 tag\n")
    program.stdin.flush()
    assert program.stdout.readline() == "1\n"
    if code < 0:
        program.send_signal(-code)
    assert program.wait(LONG) == code
    err = program.stderr.read()
    assert "Fatal" not in err and ("KeyboardInterrupt" in err) == (code == -2)
