"""The frame around every verb: errors become one line on stderr and an exit code, signals end it cleanly.

| what happened | stderr | exit code |
| --- | --- | --- |
| done | nothing | 0 |
| wrong flag, file, name, setting; disk full; no permission | one line | 2 |
| a fault of the program | one line (``--debug``: traceback) | 1 |
| Ctrl-C | "interrupted" | 130 |
| SIGTERM, SIGHUP | "terminated" | 143, 129 |
| the reader of stdout is gone (``| head``) | nothing | 141, as every Unix tool |
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from qpeft_rerank.errors import FinishedError, QpeftError

WRONG_INPUT, INTERNAL_ERROR, INTERRUPTED, CLOSED_PIPE = 2, 1, 130, 141


class UsageError(QpeftError):
    """A command line that cannot be parsed."""


class Terminated(BaseException):
    """A signal asks the program to end. No `Exception`, like `KeyboardInterrupt`: nothing may swallow it."""

    def __init__(self, number: int):
        self.number = number
        super().__init__(signal.Signals(number).name)


def guarded(action: Callable[[], None], prog: str, *, debug: bool = False, verbose: bool = False) -> int:
    """Run ``action`` and give the exit code (see the table above).

    Args:
        action: what to do.
        prog: start of each message, e.g. "qpeft bm25".
        debug: print the traceback of an error too.
        verbose: let warnings and log lines of the libraries through.
    """
    _repair_streams()
    try:
        with _signals(), _quiet(prog, verbose):
            with contextlib.suppress(SystemExit):  # argparse's end of --help
                action()
            _flush_stdout()
        return 0
    except BaseException as error:
        code, message = _outcome(error, debug)
        if debug and message is not None:
            traceback.print_exception(error)
    try:
        _flush_stdout()
    except OSError:
        pass  # the message below is about the first error, which is the one that matters
    if message is not None:
        with contextlib.suppress(OSError):  # stderr is full or gone as well: the exit code still tells
            print(f"{prog}: {' '.join(message.splitlines())}", file=sys.stderr, flush=True)
    return code


def _repair_streams() -> None:
    """Make stdout and stderr do what a program expects of them.

    * Python has None for a stream that the caller closed. ``print`` would then send messages for stderr to
      stdout, which carries the run; and a run for stdout must be an error.
    * PYTHONUNBUFFERED takes stdout's buffer away. Without one, Python forgets the rest of a text that a full
      disk or a closing pipe took only in part, and tells nobody. Nothing waits longer for a buffer: a run is
      flushed after each topic.
    """
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(os.devnull, encoding="utf-8")  # noqa: SIM115  (for reading: a write is an error)
    raw = getattr(sys.stdout, "buffer", None)
    if isinstance(raw, io.FileIO):
        buffered = io.BufferedWriter(io.FileIO(raw.fileno(), "wb", closefd=False))
        sys.stdout = io.TextIOWrapper(buffered, encoding="utf-8")


def _outcome(error: BaseException, debug: bool) -> tuple[int, str | None]:
    """Exit code and message, None for silence."""
    match error:
        case BrokenPipeError():
            return CLOSED_PIPE, None
        case KeyboardInterrupt():
            return INTERRUPTED, "interrupted"
        case Terminated():
            return 128 + error.number, "terminated"
        case FinishedError():
            return 0, str(error)
        case QpeftError():
            return WRONG_INPUT, f"error: {error}"
        case io.UnsupportedOperation() if not sys.stdout.writable():  # see `_repair_streams`
            return WRONG_INPUT, "error: standard output is closed"
        case OSError():
            return WRONG_INPUT, f"error: {_describe(error)}"
        case MemoryError():
            return WRONG_INPUT, "error: out of memory"
    hint = "" if debug else " (run again with --debug for the traceback)"
    return INTERNAL_ERROR, f"internal error: {type(error).__name__}: {error}{hint}"


def _flush_stdout() -> None:
    """Write what stdout still holds.

    Where that fails, let the rest go to nowhere, or Python complains again at its end.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):  # a stdout of a test has no file number
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
        if error.filename is None and not isinstance(error, BrokenPipeError):
            error.filename = "standard output"
        raise


def _describe(error: OSError) -> str:
    if error.strerror is None:
        return str(error) or type(error).__name__
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return f"{' -> '.join(names)}: {error.strerror}" if names else error.strerror


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM and SIGHUP raise `Terminated`, so that half-written files are removed.

    An ignored signal (nohup) stays so.
    """

    def terminate(number: int, _frame: Any) -> None:
        raise Terminated(number)

    numbers = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    if threading.current_thread() is not threading.main_thread():
        numbers = []  # Python lets the main thread alone set handlers
    before = {n: signal.signal(n, terminate) for n in numbers if signal.getsignal(n) == signal.SIG_DFL}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _quiet(prog: str, verbose: bool) -> Iterator[None]:
    """Keep libraries' warnings and log lines off stderr.

    Our own appear as "prog: note": warnings, and all that a verb says.
    """
    root, own = logging.getLogger(), logging.getLogger("qpeft_rerank")
    verbs = own.getChild("cli")
    shown = _Notes(prog, sys.stderr)
    # Without any handler Python prints warnings by itself.
    others: logging.Handler = logging.StreamHandler(sys.stderr) if verbose else logging.NullHandler()
    before = [(logger, logger.level, logger.propagate) for logger in (own, verbs)]
    own.addHandler(shown)
    own.setLevel(logging.DEBUG if verbose else logging.WARNING)
    own.propagate = False
    verbs.setLevel(logging.INFO)
    root.addHandler(others)
    if not verbose:
        for name, value in QUIET_LIBRARIES.items():
            os.environ.setdefault(name, value)
        if not sys.stderr.isatty():  # bars of downloads are for people
            os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default" if verbose else "ignore")
            yield
    finally:
        own.removeHandler(shown)
        for logger, level, propagate in before:
            logger.setLevel(level)
            logger.propagate = propagate
        root.removeHandler(others)


# Read by the libraries when they are imported, which the verbs do later.
QUIET_LIBRARIES = {
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_VERBOSITY": "error",
}


class _Notes(logging.StreamHandler):
    """Lines "prog: note" on stderr, above a progress bar if there is one."""

    def __init__(self, prog: str, stream: TextIO):
        super().__init__(stream)
        self.setFormatter(logging.Formatter(f"{prog}: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        if os.environ.get("RANK", "0") != "0":  # torchrun starts many of us; the first one speaks
            return
        tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None) if self.stream.isatty() else None
        with tqdm.external_write_mode(file=self.stream) if tqdm else contextlib.nullcontext():
            super().emit(record)
