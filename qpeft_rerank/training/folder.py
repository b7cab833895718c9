"""The folder that a training writes: which files it has, whether it can be written, what its card says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qpeft_rerank.errors import InputError
from qpeft_rerank.training.checkpoint import has_checkpoint
from qpeft_rerank.training.config import TrainingConfig

RECORD_FILE, CURVES_FILE = "training.json", "training.png"
DEV_RUN_FILE, CHECKPOINT = "run.dev.txt", "checkpoint"


def check_folder(output: str | Path, resume: bool = False) -> None:
    """Say before a model is loaded, not after hours, that a training cannot be written there. Makes nothing.

    Raises:
        InputError: it is a file, cannot be made or written, or holds a training that is not to be resumed.
            Whether a finished one is the same shows later (`state.begin_or_resume`).
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
    elif not resume and is_finished(output):
        raise InputError(f"{output} holds a finished training: choose another folder or remove it")


def is_finished(output: Path) -> bool:
    """Whether the folder holds the record of a training that is done."""
    return (output / RECORD_FILE).exists()


def make_folder(output: Path) -> None:
    """Make it where it is not there yet. Raises `InputError`."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{output}: cannot be made: {error.strerror}") from error


def card_facts(
    training: TrainingConfig, facts: Mapping[str, Any], sources: Mapping[str, Any]
) -> dict[str, Any]:
    """Lines of the adapter's card: what it was trained with, and the figures of its epoch."""
    # Names, not paths: a card is published.
    lines = {key: Path(str(sources[key])).name for key in ("collection", "run") if sources.get(key)}
    lines |= {
        "epoch": facts["epoch"],
        "training topics": training.train_topics or "all",
        "seed": training.seed,
        "loss": (
            f"contrastive, temperature {training.temperature}"
            if training.loss == "contrastive"
            else f"pairwise hinge, margin {training.margin}"
        ),
        "learning rate": training.learning_rate,
    }
    if "dev_loss" in facts:
        lines["development loss"] = f"{facts['dev_loss']:.4f}"
    for name, value in facts.get("dev", {}).items():
        lines[f"development {name}"] = f"{value:.4f}"
    return lines
