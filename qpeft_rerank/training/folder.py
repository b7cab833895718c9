"""The folder that a training writes: which files it has, and whether it can be written at all."""

from __future__ import annotations

import os
from pathlib import Path

from qpeft_rerank.errors import InputError
from qpeft_rerank.training.checkpoint import has_checkpoint

RECORD_FILE, CURVES_FILE = "training.json", "training.png"
DEV_RUN_FILE, CHECKPOINT = "run.dev.txt", "checkpoint"


def check_folder(output: str | Path, resume: bool = False) -> None:
    """Say before a model is loaded, not after hours, that a training cannot be written there. Makes nothing.

    Raises:
        InputError: it is a file, cannot be made or written, holds a finished training, or an unfinished one
            that is not to be resumed.
    """
    output = Path(output)
    try:
        nearest = next(path for path in (output, *output.absolute().parents) if path.exists())
    except OSError as error:  # for example a name that is too long
        raise InputError(f"{output}: cannot be the output folder: {error.strerror}") from error
    if not nearest.is_dir():
        raise InputError(f"{output}: cannot be the output folder: {nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"{output}: cannot be the output folder: no permission to write in {nearest}")
    if has_checkpoint(output / CHECKPOINT):
        if not resume:
            raise InputError(
                f"{output} holds an unfinished training: resume it (--resume) or remove {output / CHECKPOINT}"
            )
    elif (output / RECORD_FILE).exists():
        raise InputError(f"{output} holds a finished training: choose another folder or remove it")


def make_folder(output: Path) -> None:
    """Make it where it is not there yet. Raises `InputError`."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{output}: cannot be made: {error.strerror}") from error
