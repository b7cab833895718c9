"""`map` with a background thread, which makes the next results while the caller works on the one it has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from threading import Event, Lock, Semaphore, Thread
from typing import NamedTuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
LONGEST_WAIT = 10.0  # seconds; a look-up on a slow disk takes less


class _End(NamedTuple):
    """Stands behind the last result; an error, if it came instead of a result."""

    error: BaseException | None = None


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item], ahead: int = 1) -> Iterator[Result]:
    """``function`` of each item, in order, made in a thread that is up to ``ahead`` results in front.

    The thread reads ``items`` too, and never further than it works. An error in either is raised here, after
    all results before it. The thread ends with the items, with an error, and when this generator is closed.
    Closing waits for a ``function`` that is at work, but not for ``items``: a pipe may be silent for ever.
    """
    results: SimpleQueue[Result | _End] = SimpleQueue()
    room = Semaphore(ahead - 1)  # beyond the first item, which is wanted at once
    stopped, at_work = Event(), Lock()

    def work() -> None:
        try:
            for item in items:
                with at_work:
                    if stopped.is_set():
                        return
                    results.put(function(item))
                room.acquire()
                if stopped.is_set():
                    return
        except BaseException as error:
            results.put(_End(error))
        else:
            results.put(_End())

    # A daemon: the program does not wait for its end.
    Thread(target=work, name=f"ahead of {function!r}", daemon=True).start()
    try:
        while not isinstance(found := results.get(), _End):
            room.release()
            yield found
        if found.error is not None:
            raise found.error
    finally:
        stopped.set()
        room.release()
        # An interpreter that ends while the thread is within Rust or Java would crash.
        if at_work.acquire(timeout=LONGEST_WAIT):
            at_work.release()
