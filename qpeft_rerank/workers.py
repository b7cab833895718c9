"""`Workers`: several processes on one machine that score, each with the model on a GPU of its own.

with Workers(partial(Reranker.from_adapter, "my-adapter"), processes=4) as workers:
    for ranking in rerank(read_run("run.bm25.txt"), topics, open_passages(index="docs"), workers):
        ...

A process gets texts through a pipe and sends back how far it is, then scores or an error. It ends with the
process that started it, however that ends. As with all of Python's `multiprocessing`, a script that starts it
must do so below ``if __name__ == "__main__":``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from qpeft_rerank.errors import InputError, QpeftError, WorkerError
from qpeft_rerank.prefetch import map_ahead

if TYPE_CHECKING:
    from qpeft_rerank.passages import Passage
    from qpeft_rerank.reranker import Progress, Reranker, Scoring

LONGEST_END = 10.0  # seconds that a process may take to end by itself
Pairs = Sequence[tuple[str, "Passage"]]
Answer = int | np.ndarray | Exception  # so many pairs more are scored; all scores; why there are none


class Loaded(NamedTuple):
    """What a process says of its `Reranker` once it has it."""

    weight: float
    shared_pairs: int
    description: dict[str, Any]


class Workers:
    """A `PairScorer`: deals what it is asked to processes in turn, each of which has a `Reranker`.

    Args:
        load: makes the `Reranker`; called in each process with ``device``. Goes there by name, so that it is
            a function of a module, or `functools.partial` of one with plain arguments.
        processes: how many.
        device: of all of them; by default each has the GPU of its number or, where there is none, its share
            of this process's CPU threads.

    Attributes:
        weight: see `Reranker`.
        shared_pairs: likewise.
        ahead: two windows for each process: one in work and the next.

    Raises:
        InputError: there are fewer GPUs than processes.
        WorkerError: a process ends before it has loaded the model. What ``load`` raises is raised, too.
    """

    def __init__(self, load: Callable[..., Reranker], processes: int, device: str | None = None):
        devices = _devices(processes, device)
        self.ahead = 2 * processes - 1
        with_threads = partial(_load, load, _threads(processes))
        self._workers: list[_Worker] = []
        try:
            for number, place in enumerate(devices, start=1):
                name = f"process {number} of {processes} ({place})"
                self._workers.append(_Worker(name, with_threads, place))
            loaded = [worker.loaded() for worker in self._workers]
        except BaseException:
            self.close()
            raise
        self.weight, self.shared_pairs, self._description = loaded[0]
        self._turn = cycle(self._workers)

    def describe(self) -> dict[str, Any]:
        """See `Reranker.describe`; it does not depend on the number of processes."""
        return {**self._description, "weight": self.weight}

    def begin(self, pairs: Pairs) -> Scoring:
        """Give the pairs to the next process; see `Reranker.score` for what the result gives."""
        return next(self._turn).begin(pairs)

    def score(self, pairs: Pairs, progress: Progress | None = None) -> np.ndarray:
        """See `Reranker.score`. One process works on it: several calls of `begin` keep all at work."""
        return self.begin(pairs)(progress)

    def close(self) -> None:
        """End the processes, whatever they do."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Worker:
    """A process as the one that started it sees it."""

    def __init__(self, name: str, load: Callable[[str], Reranker], device: str):
        self.name = name
        self.jobs: deque[SimpleQueue[Answer | None]] = deque()  # what it was given, the first one in work
        self.lock = Lock()  # answers come in the order in which pairs were sent
        self.ended = False
        self.pipe, theirs = get_context("spawn").Pipe()
        self.process = get_context("spawn").Process(
            target=_work, args=(theirs, load, device), name=name, daemon=True
        )
        resource_tracker.ensure_running()  # else the start would, and let Ctrl-C through again
        # The keys go to all processes of a terminal: those of ours that score leave it to this one.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()

    def loaded(self) -> Loaded:
        """Wait for the model."""
        try:
            found = self.pipe.recv()
        except (EOFError, OSError):
            raise self._end() from None
        if isinstance(found, Exception):
            raise found
        Thread(target=self._listen, name=f"answers of {self.name}", daemon=True).start()
        return found

    def begin(self, pairs: Pairs) -> Scoring:
        """Hand the pairs over."""
        answers: SimpleQueue[Answer | None] = SimpleQueue()
        with self.lock, contextlib.suppress(OSError):  # if it is gone, its last answers are still to come
            self.jobs.append(answers)
            self.pipe.send(pairs)
        if self.ended:
            answers.put(None)

        def score(progress: Progress | None = None) -> np.ndarray:
            while isinstance(answer := answers.get(), int):
                if progress is not None:
                    progress(answer)
            if answer is None:
                raise self._end()
            if isinstance(answer, Exception):
                raise answer
            return answer

        return score

    def _listen(self) -> None:
        """Take what comes at once, so that the process never waits for a reader."""
        try:
            while True:
                answer = self.pipe.recv()
                (self.jobs[0] if isinstance(answer, int) else self.jobs.popleft()).put(answer)
        except (EOFError, OSError):
            pass
        finally:
            self.ended = True
            for job in list(self.jobs):
                job.put(None)

    def _end(self) -> WorkerError:
        self.process.join(LONGEST_END)
        self.process.kill()
        self.process.join()
        code = self.process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        hint = ": out of memory?" if code == -signal.SIGKILL else ""
        return WorkerError(f"{self.name} has ended before its work was done ({how}{hint})")


def _devices(processes: int, device: str | None) -> list[str]:
    import torch

    if processes < 1:
        raise InputError(f"processes: {processes} is not at least 1")
    gpus = torch.cuda.device_count()
    if device not in (None, "cuda") or (device is None and not gpus):
        return [device or "cpu"] * processes
    if processes > gpus:
        raise InputError(f"processes: {processes} are too many for {gpus} GPUs (or name a device to share)")
    return [f"cuda:{place}" for place in range(processes)]


def _threads(processes: int) -> int:
    import torch

    return max(1, torch.get_num_threads() // processes)


# ---- in the process ----


def _load(load: Callable[..., Reranker], threads: int, device: str) -> Reranker:
    import torch

    torch.set_num_threads(threads)
    return load(device=device)


def _work(pipe: Connection, load: Callable[[str], Reranker], device: str) -> None:
    """Load the model, then score what comes."""
    Thread(target=_end_with_parent, daemon=True).start()
    # Lines of libraries are not for the terminal; the command line silences those of its own process.
    logging.getLogger().addHandler(logging.NullHandler())
    warnings.simplefilter("ignore")
    try:
        reranker = _attempt(load, device)
        if isinstance(reranker, Exception):
            pipe.send(reranker)
            return
        pipe.send(Loaded(reranker.weight, reranker.shared_pairs, reranker.describe()))
        for scoring in map_ahead(partial(_attempt, reranker.begin), _received(pipe)):
            pipe.send(scoring if isinstance(scoring, Exception) else _attempt(scoring, pipe.send))
    except OSError:
        pass  # nobody listens any more


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # whatever the other threads do


def _received(pipe: Connection) -> Iterator[Pairs]:
    while True:
        try:
            yield pipe.recv()
        except (EOFError, OSError):
            return


def _attempt(action: Callable[[Any], Any], argument: Any) -> Any:
    """What the action gives or, in a form that can be sent, the error that it raises."""
    try:
        return action(argument)
    except (QpeftError, OSError, MemoryError) as error:
        return error
    except Exception as error:
        fault = RuntimeError(f"{type(error).__name__}: {error}")
        fault.add_note(traceback.format_exc())
        return fault
