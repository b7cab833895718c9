"""Options: dataclass fields with help in their metadata become flags, and parsed flags the dataclass again.

A field ``batch_tokens: int = option(16384, "tokens per batch")`` is the flag ``--batch-tokens N``. A verb's
dataclass inherits those of `shared_options`. A field whose type is itself a dataclass (a configuration of the
library) adds that dataclass's fields as flags.
"""

from __future__ import annotations

import argparse
import typing
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, field, fields, is_dataclass
from typing import Any, NamedTuple, TypeVar

from qpeft_rerank.settings import KINDS, plain_kind, problem

Options = TypeVar("Options")


class Verb(NamedTuple):
    """What a verb's module gives to the command line."""

    about: str  # text of `qpeft VERB --help`
    example: str
    options: type  # a dataclass; its fields are the flags
    run: Callable[[Any], None]


def option(default: Any, help: str, **metadata: Any) -> Any:
    """A dataclass field that is a flag.

    Args:
        default: value when the flag is not given; what must be given is checked by the verb.
        help: one line, lower case, no full stop. The default is added by itself.
        metadata: ``flags`` (all spellings, instead of the one made from the name), ``choices``, ``metavar``,
            ``positional`` (bool), and the limits of `settings.problem`; ``filled`` is true by default.
    """
    return field(default=default, metadata={"help": help, "filled": True, **metadata})


def borrowed(config: type, name: str, note: str = "") -> Any:
    """A flag for the field ``name`` of a configuration, with its help; not given, it is None."""
    f = next(f for f in fields(config) if f.name == name)
    metadata = dict(f.metadata)
    metadata["help"] = _help(metadata["help"], f.default).replace("%%", "%") + note
    return field(default=None, metadata=metadata)


def several(help: str, **metadata: Any) -> Any:
    """A field ``list[str]`` that is a flag to repeat, or with ``positional=True`` any number of arguments."""
    return field(default_factory=list, metadata={"help": help, "filled": True, **metadata})


def configuration(config: type, title: str) -> Any:
    """A field that holds a configuration of the library: its fields become flags, in a section ``title``."""
    return field(default_factory=config, metadata={"title": title})


def add_options(parser: argparse.ArgumentParser, options: type, title: str | None = None) -> None:
    """Add every field of the dataclass ``options`` to ``parser``, by help sections.

    There is one for each ``title`` (or the argument) of a class that declares fields; the fields of a class
    without one go to argparse's own sections.
    """
    sections: dict[str | None, list[tuple[Field, Any]]] = {}
    for owner in options.__mro__:
        if own := list(_declared_by(owner, options)):
            heading = owner.__dict__.get("title", title)
            sections[heading] = own + sections.get(heading, [])  # those of a base class stand first
    for heading, own in sections.items():
        flags = any(not f.metadata.get("positional") for f, _ in own)
        group = parser.add_argument_group(heading) if heading and flags else parser
        for f, kind in own:
            if is_dataclass(kind):
                add_options(parser, kind, f.metadata["title"])
            else:
                _add_option(parser if f.metadata.get("positional") else group, f, kind)


def from_namespace(options: type[Options], values: argparse.Namespace) -> Options:
    """The dataclass ``options`` with what the parser found. Raises what its own checks raise."""
    kinds = typing.get_type_hints(options)
    found = {}
    for f in fields(options):  # type: ignore[arg-type]
        if is_dataclass(kinds[f.name]):
            found[f.name] = from_namespace(kinds[f.name], values)
        elif f.init:
            found[f.name] = getattr(values, f.name)
    return options(**found)


def _declared_by(owner: type, options: type) -> Iterator[tuple[Field, Any]]:
    """The fields that ``owner``, a base of ``options``, is the first to declare, as ``options`` has them."""
    if not is_dataclass(owner):
        return
    inherited = {f.name for base in owner.__mro__[1:] if is_dataclass(base) for f in fields(base)}
    kinds = typing.get_type_hints(options)
    final = {f.name: f for f in fields(options)}  # type: ignore[arg-type]
    for f in fields(owner):
        if f.init and f.name not in inherited:
            yield final[f.name], kinds[f.name]


def _add_option(parser: Any, f: Field, kind: Any) -> None:
    meta = f.metadata
    default = f.default if f.default_factory is MISSING else f.default_factory()
    kind, repeated, joined = plain_kind(kind)  # a flag to repeat, values joined by commas
    settings: dict[str, Any] = {"help": _help(meta.get("help", ""), default), "default": default}
    if kind is bool:
        settings["action"] = argparse.BooleanOptionalAction if default else "store_true"
    else:
        settings["metavar"] = meta.get("metavar") or _placeholder(f.name, kind, meta.get("choices"), joined)
        settings["type"] = _joined(kind, meta) if joined else _checked(kind, meta)
    if meta.get("positional"):
        parser.add_argument(f.name, nargs="*" if repeated else "?", **settings)
        return
    if repeated:
        settings["action"] = "append"
    parser.add_argument(*meta.get("flags", ["--" + f.name.replace("_", "-")]), dest=f.name, **settings)


def _placeholder(name: str, kind: type, choices: typing.Sequence[str] | None, joined: bool) -> str:
    """What the help shows for the value."""
    if choices and not joined:
        return "{" + ",".join(choices) + "}"
    return {int: "N", float: "X"}.get(kind, name.split("_")[-1].upper())


def _checked(kind: type, meta: typing.Mapping[str, Any]) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {KINDS.get(kind, kind.__name__)}") from None
        if (wrong := problem(value, kind, meta)) is not None:
            raise argparse.ArgumentTypeError(f"{repr(text) if kind is str else text} {wrong}")
        return value

    return convert


def _joined(kind: type, meta: typing.Mapping[str, Any]) -> Callable[[str], tuple]:
    one = _checked(kind, meta)
    return lambda text: tuple(one(part.strip()) for part in text.split(",") if part.strip())


def _help(text: str, default: Any) -> str:
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    if default not in (None, "", "-") and not isinstance(default, (bool, list)) and "default" not in text:
        text += f" (default: {str(default).strip() or repr(default)})"
    return text.replace("%", "%%")
