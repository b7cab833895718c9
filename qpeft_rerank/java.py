"""Start a Java that Pyserini accepts, once per process and quietly.

Pyserini runs Lucene in a Java virtual machine (JVM) inside the Python process. A JVM can be started once per
process, its options must be set before, and a process must not fork after. So every stage that needs Lucene
calls :func:`ensure_jvm` first and takes its classes from :func:`java_class`. Nothing here happens at import.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qpeft_rerank.errors import DependencyError, InputError
from qpeft_rerank.java_home import INSTALL_HINT, Java, find_java, java_executable

__all__ = [
    "Java",
    "anserini_jar",
    "ensure_jvm",
    "find_java",
    "java_calls",
    "java_class",
    "java_executable",
    "java_list",
]

VERBOSE_VARIABLE = "PYSERINI_VERBOSE_JVM"  # Pyserini's own name for "show what Java says"

# pyjnius keeps the object of a call in the method, which all objects of a class share: two threads that call
# Java at the same time may reach each other's objects. So one thread at a time.
_lock = threading.RLock()
_started = False
_thread = threading.local()


class _Attached:
    """Kept by a thread that has called Java, and gone with it: Java forgets a thread only if it is told."""

    def __del__(self) -> None:
        from jnius import detach

        detach()


def anserini_jar() -> Path:
    """Anserini's jar inside the installed Pyserini; Lucene and trec_eval are in it."""
    spec = importlib.util.find_spec("pyserini")
    if spec is None or not spec.submodule_search_locations:
        raise DependencyError("Pyserini is not installed: pip install pyserini")
    for folder in spec.submodule_search_locations:
        jars = glob.glob(os.path.join(folder, "resources", "jars", "anserini-*-fatjar.jar"))
        if jars:
            return Path(max(jars, key=os.path.getctime))  # Pyserini takes the newest, too
    raise DependencyError(
        "the installed Pyserini has no Anserini jar: pip install --force-reinstall --no-deps pyserini"
    )


def ensure_jvm() -> None:
    """Start the JVM with Anserini's classes, or check that the one that already runs has them.

    May be called any number of times and from any thread. After it, ``import pyserini`` works too. Java's own
    output is dropped, so that it cannot get into a run on stdout; set ``PYSERINI_VERBOSE_JVM=1`` to have it
    on stderr.

    Raises :class:`DependencyError` if there is no Java, no Pyserini, or a JVM that was started without
    Anserini.
    """
    global _started
    with _lock:
        if _started:
            return
        try:
            import jnius_config
        except ImportError as error:
            raise DependencyError(
                "pyjnius, which Pyserini needs, is not installed: pip install pyserini"
            ) from error
        running = jnius_config.vm_running or "jnius" in sys.modules
        if not running:
            _start(jnius_config)
        _check_anserini()
        _started = True


def java_class(name: str) -> Any:
    """The Java class ``name`` as pyjnius gives it, with the JVM started if need be."""
    with _lock:
        ensure_jvm()
        from jnius import autoclass

        return autoclass(name)


def java_list(items: Iterable[str]) -> Any:
    """A ``java.util.ArrayList`` of strings; to be made inside :func:`java_calls`.

    Strings go to Java inside lists only: passed as such, pyjnius spoils characters beyond U+FFFF.
    """
    result = java_class("java.util.ArrayList")()
    for item in items:
        result.add(item)
    return result


@contextmanager
def java_calls(message: str) -> Iterator[None]:
    """A block that calls Java: the only one at a time, and with errors of this package.

    A Java exception becomes an :class:`InputError`: ``message``, a colon and Java's own reason.
    """
    with _lock:
        ensure_jvm()
        from jnius import JavaException

        # pyjnius attaches a thread by itself. The main one stays: it ends with the process.
        if threading.current_thread() is not threading.main_thread() and not hasattr(_thread, "attached"):
            _thread.attached = _Attached()
        try:
            yield
        except JavaException as error:
            raise InputError(f"{message}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """One line of what a Java exception says, with the class that Java gave it."""
    kind = str(getattr(error, "classname", None) or type(error).__name__).rsplit(".", 1)[-1]
    text = getattr(error, "innermessage", None) or ""
    text = " ".join(str(text).split())
    return f"{text} ({kind})" if text else kind


def _start(jnius_config: Any) -> None:
    java = find_java()
    jar = anserini_jar()
    # -Xrs: the JVM leaves Ctrl-C to Python; without it Java ends the process before Python can clean up.
    jnius_config.add_options("-Xrs", "-Dslf4j.internal.verbosity=ERROR")
    if java.version >= 22:
        jnius_config.add_options(
            "--enable-native-access=ALL-UNNAMED"
        )  # else Lucene's use of it is warned about
    if java.version >= 23:
        jnius_config.add_options("--sun-misc-unsafe-memory-access=allow")  # the same, for sun.misc.Unsafe
    if not java.has_vector_module:
        # As Pyserini's own trec_eval module does: start with the jar before Pyserini asks for the missing
        # module.
        jnius_config.add_classpath(str(jar))
    with _environment(JAVA_HOME=str(java.home), JVM_PATH=None), _captured_output() as captured:
        try:
            if java.has_vector_module:
                import pyserini.pyclass  # noqa: F401  (sets class path and options, starts the JVM)
            else:
                import jnius  # noqa: F401  (starts the JVM)
        except Exception as error:  # pyjnius raises bare Exception, SystemError, RuntimeError, ...
            lines = [
                line.strip() for line in (captured.read() + "\n" + str(error)).splitlines() if line.strip()
            ]
            raise DependencyError(
                f"Java {java.version} in {java.home} could not be started"
                f" ({lines[0] if lines else type(error).__name__}): {INSTALL_HINT}"
            ) from error
        _silence()


def _silence() -> None:
    """Send what Java prints nowhere, or to stderr if asked for; Java's loggers keep what is set first."""
    from jnius import autoclass

    system = autoclass("java.lang.System")
    if os.environ.get(VERBOSE_VARIABLE):
        system.setOut(system.err)
        return
    nowhere = autoclass("java.io.PrintStream")(autoclass("java.io.OutputStream").nullOutputStream())
    system.setOut(nowhere)
    system.setErr(nowhere)


def _check_anserini() -> None:
    from jnius import JavaException, autoclass

    try:
        autoclass("io.anserini.search.SimpleSearcher")
    except JavaException as error:
        raise DependencyError(
            "a Java virtual machine without Pyserini's classes already runs in this process:"
            " call qpeft_rerank.java.ensure_jvm(), or import pyserini, before whatever starts it"
        ) from error


@contextmanager
def _environment(**values: str | None) -> Iterator[None]:
    """Environment variables for the time of the block; None removes one."""
    before = {name: os.environ.get(name) for name in values}
    try:
        for name, value in values.items():
            _set_variable(name, value)
        yield
    finally:
        for name, value in before.items():
            _set_variable(name, value)


def _set_variable(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


class _Captured:
    def __init__(self, handle: Any):
        self._handle = handle

    def read(self) -> str:
        self._handle.seek(0)
        return str(self._handle.read().decode("utf-8", errors="replace"))


@contextmanager
def _captured_output() -> Iterator[_Captured]:
    """Keep what is written to file descriptors 1 and 2 (a starting JVM warns there) for an error message."""
    verbose = bool(os.environ.get(VERBOSE_VARIABLE))  # then all of it goes to stderr
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    with tempfile.TemporaryFile() as handle:
        saved = {}
        for descriptor in (2, 1):
            try:
                saved[descriptor] = os.dup(descriptor)
                os.dup2(saved[2] if verbose else handle.fileno(), descriptor)
            except OSError:  # closed by the caller: nothing to keep apart
                continue
        try:
            yield _Captured(handle)
        finally:
            for descriptor, copy in saved.items():
                os.dup2(copy, descriptor)
                os.close(copy)
