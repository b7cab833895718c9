"""A folder that appears under its name when all of it is there: indexes are built so."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qpeft_rerank.errors import InputError


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """A new folder beside ``target`` that takes its place when the block ends well and goes when not.

    Raises `InputError` if no folder can be made there.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{target.name}.building-", dir=target.parent))
    except OSError as error:
        raise InputError(f"{target}: cannot be made: {error.strerror}") from error
    try:
        yield building
        _move_into_place(building, target)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _move_into_place(building: Path, target: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    building.chmod(0o777 & ~umask)  # mkdtemp makes folders that only their owner can read
    if not target.exists():
        building.rename(target)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.replaced-", dir=target.parent))
    target.rename(aside / "index")
    building.rename(target)
    shutil.rmtree(aside, ignore_errors=True)
