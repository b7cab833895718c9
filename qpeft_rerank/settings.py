"""Settings: dataclass fields with their own help text and limits: declared, checked, shown in one place."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import field, fields
from numbers import Real
from typing import Any, Literal

from qpeft_rerank.errors import InputError

MISSING = ("error", "skip")  # what a stage does about a topic or passage without text
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def setting(default: Any, help: str, **limits: Any) -> Any:
    """A field of a settings dataclass.

    Args:
        default: its value where none is given.
        help: what it means; the command line shows it.
        limits: which values are possible, see `problem`.
    """
    return field(default=default, metadata={"help": help, **limits})


def problem(value: Any, kind: type, limits: Mapping[str, Any]) -> str | None:
    """What is wrong with a value, as "is below 1"; None if nothing is.

    Args:
        value: a single one.
        kind: what it must be, see `KINDS`; of another kind, it may be anything. Numbers must be finite.
        limits: ``filled`` (true: not an empty text), ``least``, ``above``, ``most``, ``below``, ``choices``
            (all that are possible). What else is there is not looked at.
    """
    if not _is(value, kind):
        return f"is not {KINDS[kind]}"
    if kind in (int, float) and not abs(value) < math.inf:
        return "is not a finite number"
    if limits.get("filled") and value == "":
        return "is empty"
    if "least" in limits and value < limits["least"]:
        return f"is below {limits['least']}, the least that is possible"
    if "above" in limits and value <= limits["above"]:
        return f"is not above {limits['above']}"
    if "most" in limits and value > limits["most"]:
        return f"is above {limits['most']}, the most that is possible"
    if "below" in limits and value >= limits["below"]:
        return f"is not below {limits['below']}"
    if limits.get("choices") and value not in limits["choices"]:
        return f"is not one of {', '.join(limits['choices'])}"
    return None


def check_settings(settings: Any) -> None:
    """Raise `InputError`, which names field and value, where a field is not of its type or outside its
    limits.

    The default is always possible. Where the type is a tuple, each of the values is checked.
    """
    kinds = typing.get_type_hints(type(settings))
    for f in fields(settings):
        value, (kind, _, joined) = getattr(settings, f.name), plain_kind(kinds[f.name])
        if value is f.default:
            continue
        if joined and (isinstance(value, str) or not isinstance(value, Collection)):
            raise InputError(f"{f.name}: {value!r} is not a list")
        for one in value if joined else (value,):
            if (wrong := problem(one, kind, f.metadata)) is not None:
                raise InputError(f"{f.name}: {one!r} {wrong}")


def plain_kind(kind: Any) -> tuple[Any, bool, bool]:
    """``(type of one value, is it of a list, is it of a tuple)`` of a field's annotation."""
    origin, inner = typing.get_origin(kind), [k for k in typing.get_args(kind) if k is not types.NoneType]
    if origin in (typing.Union, types.UnionType):
        return plain_kind(inner[0])
    if origin in (list, tuple):
        return inner[0], origin is list, origin is tuple
    return (str if origin is Literal else kind), False, False


def _is(value: Any, kind: type) -> bool:
    if kind in (int, float):
        return isinstance(value, int if kind is int else Real) and not isinstance(value, bool)
    return kind not in KINDS or isinstance(value, kind)
