"""Settings: dataclass fields with their own help text and limits: declared, checked, shown in one place."""

from __future__ import annotations

from dataclasses import field, fields
from typing import Any

from qpeft_rerank.errors import InputError


def setting(default: Any, help: str, **limits: Any) -> Any:
    """A field of a settings dataclass.

    Args:
        default: its value where none is given.
        help: what it means; the command line shows it.
        limits: ``choices`` (possible values) and ``least`` (smallest value), both for `check_settings`.
    """
    return field(default=default, metadata={"help": help, **limits})


def check_settings(settings: Any) -> None:
    """Raise `InputError`, which names field and value, where a field is outside its limits.

    The default is always possible. Where it is a whole number, so must the value be; where it is a tuple,
    each of the values is checked.
    """
    for f in fields(settings):
        value, choices, least = getattr(settings, f.name), f.metadata.get("choices"), f.metadata.get("least")
        if value is f.default or (choices is None and least is None):
            continue
        for one in value if isinstance(f.default, tuple) else (value,):
            if choices is not None and one not in choices:
                raise InputError(f"{f.name}: {one!r} is not one of {', '.join(choices)}")
        if least is not None:
            whole = type(f.default) is int or f.default is None
            number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
            if not number or not value >= least:
                kind = "whole number" if whole else "number"
                raise InputError(f"{f.name}: {value!r} is not a {kind} of at least {least}")
