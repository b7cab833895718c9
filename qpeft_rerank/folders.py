"""A folder that appears under its name when all of it is there: indexes are built so."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qpeft_rerank.errors import InputError


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """A new folder beside ``target`` that takes its place when the block ends well and goes when not.

    Raises `InputError` if no folder can be made there.
    """
    place = Path(os.path.realpath(target))  # a link stays a link: what it points to is replaced
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        building = _beside(place, "building")
        building.mkdir()
    except OSError as error:
        raise InputError(f"{target}: cannot be made: {error.strerror}") from error
    try:
        yield building
        _move_into_place(building, place)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _beside(target: Path, what: str) -> Path:
    # Not tempfile: its folders are private, ours follow the user's umask like any other folder.
    return target.with_name(f".{target.name[:100]}.{what}-{secrets.token_hex(6)}")


def _move_into_place(building: Path, target: Path) -> None:
    if not target.exists():
        building.rename(target)
        return
    old = _beside(target, "replaced")
    try:
        target.rename(old)
        building.rename(target)
    finally:
        if old.exists() and not target.exists():  # stopped between the two
            old.rename(target)
        shutil.rmtree(old, ignore_errors=True)
