"""What a result was made with: settings, versions, git revision, machine; written as JSON beside each run and
adapter.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from qpeft_rerank.version import __version__

_PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "pyserini",
    "faiss-cpu",
    "pytrec_eval-terrier",
    "numpy",
)


def run_record(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with all that is needed to make the same again."""
    return {
        "settings": dict(settings),
        "qpeft_rerank": __version__,
        "git_revision": git_revision(),
        "python": platform.python_version(),
        "packages": package_versions(),
        "machine": platform.machine(),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }


class Difference(NamedTuple):
    """A setting that is not the same: its dotted name, and its two values (None where it is not there)."""

    name: str
    before: Any
    now: Any


def first_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> Difference | None:
    """The first setting, by name, that differs between two JSON-ready ones; None if they are the same."""
    for key in sorted({*before, *now}):
        a, b = before.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            if (inner := first_difference(a, b)) is not None:
                return inner._replace(name=f"{key}.{inner.name}")
        elif a != b:
            return Difference(key, a, b)
    return None


def package_versions() -> dict[str, str]:
    """Versions of the packages that figures depend on, those that are installed."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


@cache
def git_revision() -> str | None:
    """Revision of the checkout that this package runs from, with "+changes" if it differs; None outside a
    checkout.
    """
    folder = Path(__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return None
    try:
        revision = _git(folder, "rev-parse", "HEAD")
        return revision + (
            "+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()
