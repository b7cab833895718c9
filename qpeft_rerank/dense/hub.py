"""Files of a model by its name: in a folder, or of one commit on the hub."""

from __future__ import annotations

from functools import cache
from pathlib import Path


def find_file(model: str, name: str, revision: str | None = None) -> Path | None:
    """A file of a folder or of the hub, None where it is not there."""
    from qpeft_rerank.models.base import DEMO_MODEL

    folder = DEMO_MODEL if model == "demo" else Path(model)
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    from transformers.utils import cached_file

    try:
        found = cached_file(
            model,
            name,
            revision=revision,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError:  # no name of the hub: what loads the model says so
        return None
    return None if found is None else Path(found)


@cache  # a process loads a model once, and the hub is not to be asked again
def commit_of(model: str, revision: str | None = None, name: str = "config.json") -> str | None:
    """The commit that ``revision`` (a branch, a tag) of a model on the hub stands for; None for a folder.

    Args:
        model: name or folder.
        revision: by default the main branch.
        name: a file that is there.
    """
    path = find_file(model, name, revision)
    return None if path is None else commit_in(path)


def commit_in(path: Path) -> str | None:
    """The commit that a path in the hub's cache is of, as it says: ``.../snapshots/COMMIT/...``."""
    return next((part.name for part in (path, *path.parents) if part.parent.name == "snapshots"), None)
