"""State of an unfinished training as safetensors and JSON: trained weights, AdamW's moments, how far it has
come.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from qpeft_rerank.errors import InputError
from qpeft_rerank.files import writing

_STATE, _TENSORS = "state.json", "state.safetensors"


def save_checkpoint(
    folder: Path,
    state: dict[str, Any],
    weights: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Replace the checkpoint in ``folder``; at every moment one whole checkpoint is there."""
    tensors = {f"weight.{name}": p.detach().cpu().contiguous() for name, p in weights.items()}
    for name, parameter in weights.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = value.detach().cpu().contiguous()
    new, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    for leftover in (new, old):
        if folder.exists() or leftover is new:
            shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir(parents=True)
    with writing(str(folder), SafetensorError):
        save_file(tensors, new / _TENSORS)
        (new / _STATE).write_text(json.dumps(state, indent=2), encoding="utf-8")
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def remove_checkpoint(folder: Path) -> None:
    """Remove it and what a kill may have left beside it; the newest last, which counts while it is there."""
    for leftover in (folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old"), folder):
        shutil.rmtree(leftover, ignore_errors=True)


def has_checkpoint(folder: Path) -> bool:
    """Whether there is a whole checkpoint."""
    return _whole(folder) is not None


def load_checkpoint(
    folder: Path, weights: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Put the saved weights and moments back; returns the saved state.

    Raises:
        InputError: there is none, it is damaged, or of other weights.
    """
    state = load_state(folder)
    path = _existing(folder) / _TENSORS
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"checkpoint {path} cannot be read: {error}") from error
    with torch.no_grad():
        for name, parameter in weights.items():
            if f"weight.{name}" not in tensors or tensors[f"weight.{name}"].shape != parameter.shape:
                raise InputError(f"checkpoint {path} is of another training: {name!r} does not fit")
            parameter.copy_(tensors[f"weight.{name}"])
            moments = {}
            for key in ("step", "exp_avg", "exp_avg_sq"):
                if f"optimizer.{key}.{name}" in tensors:
                    value = tensors[f"optimizer.{key}.{name}"]
                    moments[key] = value if key == "step" else value.to(parameter.device)
            if moments:
                optimizer.state[parameter] = moments
    return state


def load_state(folder: Path) -> dict[str, Any]:
    """The saved state alone. Raises `InputError` as `load_checkpoint` does."""
    path = _existing(folder) / _STATE
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"checkpoint {path} cannot be read: {error}") from error


def _existing(folder: Path) -> Path:
    whole = _whole(folder)
    if whole is None:
        raise InputError(f"there is no checkpoint in {folder} to resume from")
    return whole


def _whole(folder: Path) -> Path | None:
    old = folder.with_name(folder.name + ".old")  # where a kill struck between the two renames
    return next((f for f in (folder, old) if (f / _STATE).is_file() and (f / _TENSORS).is_file()), None)
