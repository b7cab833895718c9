"""One declaration of a setting's limits holds in the library and on the command line."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from typing import Any

import pytest

from qpeft_rerank.cli.options import add_options
from qpeft_rerank.errors import InputError
from qpeft_rerank.settings import check_settings, setting


@dataclass(frozen=True)
class Settings:
    """One field for each kind of limit."""

    depth: int | None = setting(None, "how deep", least=1)
    rate: float = setting(0.1, "step", above=0, below=1)
    share: float = setting(0.5, "part", least=0, most=1)
    colour: str = setting("red", "of all", choices=("red", "blue"))
    words: tuple[str, ...] = setting((), "some", filled=True)
    numbers: tuple[float, ...] | None = setting(None, "others", least=0)
    sort: bool = setting(True, "by length")

    def __post_init__(self) -> None:
        check_settings(self)


POSSIBLE = [
    {"depth": 1, "rate": 0.9, "share": 1, "colour": "blue", "words": ("a",), "numbers": (0, 2.5)},
    {"depth": None, "share": 0, "words": ["a", "b"], "numbers": (), "sort": False},
]
WRONG = [
    ("depth", 0, "0", "0 is below 1, the least that is possible"),
    ("rate", 0.0, "0.0", "0.0 is not above 0"),
    ("rate", 1.0, "1.0", "1.0 is not below 1"),
    ("share", 1.5, "1.5", "1.5 is above 1, the most that is possible"),
    ("share", float("nan"), "nan", "nan is not a finite number"),
    ("rate", float("inf"), "inf", "inf is not a finite number"),
    ("colour", "green", "green", "'green' is not one of red, blue"),
    ("numbers", (1.0, -1.0), "1,-1.0", "-1.0 is below 0, the least that is possible"),
    ("depth", "many", "many", "'many' is not a whole number"),
    ("rate", "x", "x", "'x' is not a number"),
    ("words", ("a", ""), None, "'' is empty"),
    ("words", "ab", None, "'ab' is not a list"),
    ("words", 5, None, "5 is not a list"),
    ("depth", True, None, "True is not a whole number"),
    ("depth", 1.5, None, "1.5 is not a whole number"),
    ("colour", None, None, "None is not a text"),
    ("colour", ["red"], None, r"\['red'\] is not a text"),
    ("sort", 1, None, "1 is not true or false"),
]


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise InputError(message.removeprefix("argument --"))


@pytest.mark.parametrize("values", POSSIBLE)
def test_possible_values_are_taken(values: dict[str, Any]) -> None:
    settings = Settings(**values)
    assert all(getattr(settings, f.name) == values.get(f.name, f.default) for f in fields(Settings))


@pytest.mark.parametrize(("name", "value", "text", "message"), WRONG)
def test_what_is_wrong_is_said_alike_by_library_and_command_line(
    name: str, value: Any, text: str | None, message: str
) -> None:
    with pytest.raises(InputError, match=f"^{name}: {message}$"):
        Settings(**{name: value})
    if text is not None:
        parser = Parser()
        add_options(parser, Settings)
        with pytest.raises(InputError, match=f"^{name}: {message}$"):
            parser.parse_args([f"--{name}", text])
