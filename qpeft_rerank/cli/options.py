"""Options: dataclass fields with help in their metadata become flags, and parsed flags become the dataclass again.

A field ``batch_tokens: int = option(16384, "tokens per batch")`` is the flag ``--batch-tokens N``. Options that several verbs
share stand here once, as small dataclasses that a verb's own dataclass inherits. A field whose type is itself a dataclass
(a configuration of the library) adds that dataclass's fields as flags.
"""

from __future__ import annotations

import argparse
import math
import sys
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

from qpeft_rerank.collection import Collection, load_collection
from qpeft_rerank.errors import InputError

Options = TypeVar("Options")
NUMBERS = {int: "a whole number", float: "a number"}


class Verb(NamedTuple):
    """What a verb's module gives to the command line."""

    about: str  # text of `qpeft VERB --help`
    example: str
    options: type  # a dataclass; its fields are the flags
    run: Callable[[Any], None]


def option(default: Any, help: str, **metadata: Any) -> Any:
    """A dataclass field that is a flag.

    Args:
        default: value when the flag is not given.
        help: one line, lower case, no full stop. The default is added by itself.
        metadata: ``flags`` (all spellings, instead of the one made from the name), ``choices``, ``metavar``, ``positional``
            (bool), ``least``, ``most``, ``above``, ``below``.
    """
    return field(default=default, metadata={"help": help, **metadata})


def borrowed(config: type, name: str, note: str = "") -> Any:
    """A flag for the field ``name`` of a configuration, with its help; not given, it is None."""
    f = next(f for f in fields(config) if f.name == name)
    metadata = dict(f.metadata)
    metadata["help"] = _help(metadata["help"], f.default).replace("%%", "%") + note
    return field(default=None, metadata=metadata)


def several(help: str, **metadata: Any) -> Any:
    """A field ``list[str]`` that is a flag to repeat, or with ``positional=True`` any number of arguments."""
    return field(default_factory=list, metadata={"help": help, **metadata})


def configuration(config: type, title: str) -> Any:
    """A field that holds a configuration of the library; its fields become flags, in a help section with this title."""
    return field(default_factory=config, metadata={"title": title})


def add_options(parser: argparse.ArgumentParser, options: type, title: str | None = None) -> None:
    """Add every field of the dataclass ``options`` to ``parser``, one help section for each class that declares some.

    The section of a class is named by its ``title`` (or the argument); the fields of a class without one go to argparse's own sections.
    """
    for owner in options.__mro__:
        own = list(_declared_by(owner, options))
        if not own:
            continue
        heading = owner.__dict__.get("title", title)
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
    """The fields that ``owner``, a base of ``options``, is the first to declare; as ``options`` has them in the end."""
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
    default = f.default_factory() if f.default_factory is not MISSING else None if f.default is MISSING else f.default
    names = [f.name] if meta.get("positional") else list(meta.get("flags") or ["--" + f.name.replace("_", "-")])
    kind, repeated, joined = _plain_kind(kind)
    settings: dict[str, Any] = {"help": _help(meta.get("help", ""), default)}
    if kind is bool:
        settings["action"] = argparse.BooleanOptionalAction if default else "store_true"
    else:
        settings["metavar"] = meta.get("metavar") or {int: "N", float: "X"}.get(kind, f.name.split("_")[-1].upper())
        settings["type"] = _joined(kind, meta) if joined else _checked(kind, meta)
        if meta.get("choices") and not joined:
            settings["metavar"] = meta.get("metavar") or "{" + ",".join(meta["choices"]) + "}"
    if meta.get("positional"):
        parser.add_argument(*names, nargs="*" if repeated else "?" if f.default is not MISSING else None,
                            default=default, **settings)
        return
    if repeated:
        settings["action"] = "append"
    parser.add_argument(*names, dest=f.name, default=default, required=f.default is MISSING and
                        f.default_factory is MISSING, **settings)


def _plain_kind(kind: Any) -> tuple[Any, bool, bool]:
    """``(type of one value, may the flag be repeated, are values joined by commas)`` of an annotation."""
    origin, inner = typing.get_origin(kind), [k for k in typing.get_args(kind) if k is not types.NoneType]
    if origin in (typing.Union, types.UnionType):
        return _plain_kind(inner[0])
    if origin is list:
        return inner[0], True, False
    if origin is tuple:
        return inner[0], False, True
    return (str if origin is Literal else kind), False, False


def _checked(kind: type, meta: typing.Mapping[str, Any]) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {NUMBERS.get(kind, kind.__name__)}") from None
        if kind is float and not math.isfinite(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
        if kind is str and not text and not meta.get("may_be_empty"):
            raise argparse.ArgumentTypeError("the value is empty")
        if "least" in meta and value < meta["least"]:
            raise argparse.ArgumentTypeError(f"{text} is below {meta['least']}, the least that is possible")
        if "above" in meta and value <= meta["above"]:
            raise argparse.ArgumentTypeError(f"{text} is not above {meta['above']}")
        if "most" in meta and value > meta["most"]:
            raise argparse.ArgumentTypeError(f"{text} is above {meta['most']}, the most that is possible")
        if "below" in meta and value >= meta["below"]:
            raise argparse.ArgumentTypeError(f"{text} is not below {meta['below']}")
        if meta.get("choices") and value not in meta["choices"]:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(meta['choices'])}")
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


# ---- options that several verbs share ----


@dataclass(kw_only=True)
class CollectionOptions:
    """A collection file that fills what the other flags leave open."""

    title: ClassVar[str] = "collection"
    default_split: ClassVar[str] = "test"

    collection: str | None = option(None, "TOML file that names index, corpus, topics and qrels once; a flag given here wins "
                                          "over the file", flags=("-c", "--collection"), metavar="FILE.toml")
    split: str | None = option(None, "split of the collection, e.g. train, dev, test (default: test)")

    def load(self) -> Collection | None:
        """The collection, None where no ``-c`` was given."""
        if self.collection is None:
            if self.split is not None:
                raise InputError("--split needs -c/--collection: it names a split of a collection file")
            return None
        return load_collection(self.collection)

    @property
    def chosen_split(self) -> str:
        """The split to use."""
        return self.split or self.default_split


@dataclass(kw_only=True)
class TopicsOptions(CollectionOptions):
    """The topics, by file, name or collection."""

    title: ClassVar[str] = "topics"

    topics: str | None = option(None, "file (TSV, TREC <top>, JSONL, .gz), '-' for stdin, or a Pyserini name such as dl19-passage")
    topics_format: str | None = option(None, "form of the topics file (default: seen from its content)",
                                       choices=("tsv", "trec", "jsonl"))
    topics_field: str = option("title", "which part of TREC <top> topics is the query", choices=("title", "desc", "narr"))

    def read_topics(self) -> dict[str, str]:
        """``qid -> text``. Raises `InputError` if nothing names the topics, or there are none."""
        from qpeft_rerank.topics import read_topics

        source = self.topics
        if source is None and (collection := self.load()) is not None:
            source = collection.topics_of(self.chosen_split)
        if source is None:
            raise InputError("no topics given: name them with --topics, or a collection file with -c")
        topics = read_topics(source, topics_format=self.topics_format, field=self.topics_field)
        if not topics:
            raise InputError(f"{source}: there are no topics in it")
        return topics


@dataclass(kw_only=True)
class QrelsOptions(CollectionOptions):
    """The qrels, by file, name or collection."""

    title: ClassVar[str] = "qrels"

    qrels: str | None = option(None, "TREC qrels file, or a Pyserini name such as dl19-passage")

    def qrels_source(self) -> str:
        """File or name of the qrels. Raises `InputError` if nothing names them."""
        if self.qrels is not None:
            return self.qrels
        if (collection := self.load()) is not None:
            return collection.qrels_of(self.chosen_split)
        raise InputError("no qrels given: name them with --qrels, or a collection file with -c")


@dataclass(kw_only=True)
class PassageOptions(CollectionOptions):
    """Where the text of candidates comes from."""

    title: ClassVar[str] = "text of the passages (one of)"

    index: str | None = option(None, "Lucene index: folder, or a Pyserini prebuilt name such as msmarco-v1-passage")
    corpus: str | None = option(None, "corpus file or folder (Anserini or BEIR JSONL, MS MARCO TSV, DPR TSV)")
    ir_dataset: str | None = option(None, "name of an ir_datasets collection", metavar="NAME")

    def open_passages(self) -> Any:
        """The passages (see `qpeft_rerank.passages`). Raises `InputError` if nothing, or more than one thing, names them."""
        from qpeft_rerank.passages import open_passages

        given = {name: value for name in ("index", "corpus", "ir_dataset") if (value := getattr(self, name)) is not None}
        if len(given) > 1:
            raise InputError("passages: give one of " + ", ".join(f"--{n.replace('_', '-')}" for n in given) + ", not all")
        if not given and (collection := self.load()) is not None:
            given = collection.passages()
        if not given:
            raise InputError("no passages given: name them with --index or --corpus, or a collection file with -c")
        return open_passages(**given)


@dataclass(kw_only=True)
class ModelOptions:
    """The base model and how it is loaded."""

    title: ClassVar[str] = "base model"

    model: str | None = option(None, "causal language model: Hugging Face name or folder; 'demo' is the small one in the package")
    dtype: str | None = option(None, "type of its weights (default: bfloat16 on a GPU that has it, else float32)",
                               choices=("float32", "bfloat16", "float16"))
    device: str | None = option(None, "cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    device_map: str | None = option(None, "spread the model over devices, e.g. auto; instead of --device", metavar="MAP")
    quantize: str | None = option(None, "load the weights with 8 or 4 bits (needs bitsandbytes)", choices=("8bit", "4bit"))
    lora: str | None = option(None, "peft LoRA that the model carries: folder or Hugging Face name")
    revision: str | None = option(None, "branch, tag or commit on the hub: of the adapter, where one is named, else of the model")

    def base_options(self) -> dict[str, str]:
        """Those that are given, as arguments of `load_base`, without the model's name."""
        names = ("dtype", "device", "device_map", "quantize", "lora", "revision")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(kw_only=True)
class InputRunOptions:
    """The run that a stage reads."""

    title: ClassVar[str] = "run"

    run_file: str | None = option(None, "run to read (.gz too); '-' or nothing: stdin", positional=True, metavar="RUN")
    run: str | None = option(None, "the same as RUN", metavar="RUN")

    def run_source(self) -> str:
        """Name of the run file, "-" for stdin."""
        if self.run and self.run_file:
            raise InputError(f"two runs given: {self.run_file} and --run {self.run}")
        return self.run or self.run_file or stdin_run()


@dataclass(kw_only=True)
class OutputRunOptions:
    """The run that a stage writes."""

    title: ClassVar[str] = "output"

    output: str = option("-", "run file to write (.gz: compressed; default: stdout)", metavar="FILE")
    runtag: str | None = option(None, "last column of the run (default: name of the method)", metavar="TAG")


def stdin_run() -> str:
    """ "-", or an `InputError` where nothing is piped in and a terminal would wait for typing for ever."""
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        raise InputError("no run given: name a run file, or pipe one in (qpeft bm25 ... | qpeft ...)")
    return "-"
