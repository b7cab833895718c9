"""Dataclass fields are flags, and parsed flags are the dataclass again."""

import argparse
from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from qpeft_rerank.cli.__main__ import Parser
from qpeft_rerank.cli.frame import UsageError
from qpeft_rerank.cli.options import add_options, configuration, from_namespace, option, several
from qpeft_rerank.errors import InputError


@dataclass(frozen=True)
class Method:
    """A configuration of the library."""

    k: int = field(default=15, metadata={"help": "hints"})
    filters: tuple[str, ...] = field(
        default=("a", "b"), metadata={"help": "filters", "choices": ("a", "b", "c")}
    )

    def __post_init__(self):
        if self.k == 13:
            raise InputError("k: 13 brings bad luck")


@dataclass(kw_only=True)
class Shared:
    """Options of several verbs."""

    title: ClassVar[str] = "shared"
    depth: int | None = option(None, "how deep", least=1)


@dataclass(kw_only=True)
class Flags(Shared):
    """Options of one verb."""

    runs: list[str] = several("runs", positional=True)
    measure: list[str] = several("measure", flags=("-m", "--measure"))
    learning_rate: float = option(3e-2, "step", above=0)
    b: float = option(0.4, "length", least=0, most=1)
    rm3: bool = option(False, "expand")
    sort: bool = option(True, "sort by length")
    format: str = option("text", "50% of it", choices=("text", "json"))
    method: Method = configuration(Method, "method")


def parse(*arguments):
    parser = Parser(prog="qpeft test")
    add_options(parser, Flags)
    return from_namespace(Flags, parser.parse_intermixed_args(arguments))


def test_without_flags_every_field_has_its_default():
    assert parse() == Flags()


def test_flags_have_hyphens_and_the_types_of_their_fields():
    found = parse(
        "--learning-rate", "1e-3", "--depth", "5", "--rm3", "--no-sort", "--k", "3", "--filters", "a, c"
    )
    assert (found.learning_rate, found.depth, found.rm3, found.sort) == (1e-3, 5, True, False)
    assert found.method == Method(k=3, filters=("a", "c"))


def test_flags_repeat_and_mix_with_positional_arguments():
    found = parse("one", "-m", "nDCG@10", "two", "--measure", "AP", "three")
    assert found.runs == ["one", "two", "three"]
    assert found.measure == ["nDCG@10", "AP"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--depth", "0"), "argument --depth: 0 is below 1"),
        (("--depth", "-1"), "argument --depth: -1 is below 1"),
        (("--depth", "many"), "argument --depth: 'many' is not a whole number"),
        (("--depth", "1.5"), "argument --depth: '1.5' is not a whole number"),
        (("--b", "nan"), "argument --b: nan is not a finite number"),
        (("--b", "1.1"), "argument --b: 1.1 is above 1"),
        (("--learning-rate", "0"), "argument --learning-rate: 0 is not above 0"),
        (("--format", "xml"), "argument --format: 'xml' is not one of text, json"),
        (("--filters", "a,x"), "argument --filters: 'x' is not one of a, b, c"),
        (("--format", ""), "argument --format: '' is empty"),
        (("--dept", "3"), "unrecognized arguments: --dept"),
    ],
)
def test_what_is_wrong_is_said_with_flag_and_value(arguments, message):
    with pytest.raises(UsageError, match=message):
        parse(*arguments)


def test_checks_of_a_configuration_hold():
    with pytest.raises(InputError, match="bad luck"):
        parse("--k", "13")


def test_help_shows_each_option_once_in_the_section_of_its_class_with_its_default():
    parser = argparse.ArgumentParser(prog="qpeft test")
    add_options(parser, Flags)
    text = " ".join(parser.format_help().split())
    assert "shared: --depth N how deep" in text
    assert "--learning-rate X step (default: 0.03)" in text
    assert "--format {text,json} 50% of it (default: text)" in text
    assert text.count("how deep") == 1
