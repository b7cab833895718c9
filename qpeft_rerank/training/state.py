"""Where a training stands: begun, saved after each epoch, taken up again after a kill."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qpeft_rerank.errors import FinishedError, InputError
from qpeft_rerank.record import first_difference
from qpeft_rerank.training.checkpoint import has_checkpoint, load_checkpoint, load_state, save_checkpoint
from qpeft_rerank.training.folder import CHECKPOINT, RECORD_FILE, is_finished, make_folder


@dataclass
class State:
    """Where a training stands; goes to and from JSON."""

    step: int = 0
    loss_sum: float = 0.0  # of the epoch under way
    loss_steps: int = 0
    epochs: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int | None = None
    best_value: float | None = None
    seconds: float = 0.0
    scaler: dict[str, Any] | None = None  # fp16's loss scale


def begin_or_resume(
    output: Path,
    everything: dict[str, Any],
    weights: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None = None,
) -> State:
    """A fresh state (the folder is made), or that of the folder's checkpoint, whose weights and loss scale
    are put back.

    Raises:
        InputError: the checkpoint was made with other settings than ``everything``, or is damaged.
        FinishedError: such a training is done already.
    """
    folder, now = output / CHECKPOINT, json.loads(json.dumps(everything))
    if not has_checkpoint(folder):
        if is_finished(output):
            _check_same(output, _recorded_settings(output), now)
            raise FinishedError(f"{output} holds this finished training: nothing is left to do")
        make_folder(output)
        return State()  # new, or killed before the first checkpoint
    _check_same(output, load_state(folder)["settings"], now)
    saved = load_checkpoint(folder, weights, optimizer)
    del saved["settings"]
    state = State(**saved)
    if scaler is not None and state.scaler:
        scaler.load_state_dict(state.scaler)
    return state


def _check_same(output: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    differs = first_difference(before, now)
    if differs is not None:
        finished = "finished " if is_finished(output) else ""
        raise InputError(
            f"cannot resume: {differs.name} differs from what the {finished}training in {output} "
            "was begun with"
        )


def _recorded_settings(output: Path) -> dict[str, Any]:
    path = output / RECORD_FILE
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: the record of a finished training cannot be read: {error!r}") from error


def save_state(
    output: Path,
    state: State,
    everything: dict[str, Any],
    weights: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    started: float,
    scaler: torch.amp.GradScaler | None = None,
) -> None:
    """Replace the folder's checkpoint; ``started`` is when this process began, by `time.monotonic`."""
    seconds = round(state.seconds + time.monotonic() - started, 1)
    now = replace(state, seconds=seconds, scaler=None if scaler is None else scaler.state_dict())
    save_checkpoint(output / CHECKPOINT, {**asdict(now), "settings": everything}, weights, optimizer)


def from_main(state: State, accelerator: Any) -> State:
    """The main process's state, for all: it alone measured the epoch."""
    if accelerator.num_processes == 1:
        return state
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([state])[0]
