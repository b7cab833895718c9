"""Options that several verbs share, each declared once: a verb's own dataclass inherits what it needs."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

from qpeft_rerank.cli.options import option
from qpeft_rerank.collection import Collection, load_collection
from qpeft_rerank.errors import InputError


@dataclass(kw_only=True)
class CollectionOptions:
    """A collection file that fills what the other flags leave open."""

    title: ClassVar[str] = "collection"

    collection: str | None = option(
        None,
        "TOML file that names index, corpus, topics and qrels once; a flag given here wins over the file",
        flags=("-c", "--collection"),
        metavar="FILE.toml",
    )

    def load(self) -> Collection | None:
        """The collection, None where no ``-c`` was given."""
        return None if self.collection is None else load_collection(self.collection)


@dataclass(kw_only=True)
class SplitOptions(CollectionOptions):
    """Which topics and qrels of the collection are meant."""

    title: ClassVar[str] = "collection"
    default_split: ClassVar[str] = "test"

    split: str | None = option(None, "split of the collection, e.g. train, dev, test (default: test)")

    def load(self) -> Collection | None:
        """The collection, None where no ``-c`` was given."""
        if self.collection is None and self.split is not None:
            raise InputError("--split needs -c/--collection: it names a split of a collection file")
        return super().load()

    @property
    def chosen_split(self) -> str:
        """The split to use."""
        return self.split or self.default_split


@dataclass(kw_only=True)
class TopicsOptions(SplitOptions):
    """The topics, by file, name or collection."""

    title: ClassVar[str] = "topics"

    topics: str | None = option(
        None,
        "file (TSV, TREC <top> or XML, JSONL, .gz), '-' for stdin, or a Pyserini name like dl19-passage",
    )
    topics_format: str | None = option(
        None, "form of the topics file (default: seen from its content)", choices=("tsv", "trec", "jsonl")
    )
    topics_field: str = option(
        "title",
        "which part of TREC or JSONL topics is the query (of a Pyserini name, too)",
        choices=("title", "desc", "narr"),
    )

    def topics_source(self) -> str:
        """File or name of the topics. Raises `InputError` if nothing names them."""
        if self.topics is not None:
            return self.topics
        if (collection := self.load()) is not None:
            return collection.topics_of(self.chosen_split)
        raise InputError("no topics given: name them with --topics, or a collection file with -c")

    def read_topics(self) -> dict[str, str]:
        """``qid -> text``. Raises `InputError` if nothing names the topics, or there are none."""
        from qpeft_rerank.topics import read_topics

        source = self.topics_source()
        topics = read_topics(source, topics_format=self.topics_format, field=self.topics_field)
        if not topics:
            raise InputError(f"{source}: there are no topics in it")
        return topics


@dataclass(kw_only=True)
class QrelsOptions(SplitOptions):
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

    index: str | None = option(
        None, "Lucene index: folder, or a Pyserini prebuilt name such as msmarco-v1-passage"
    )
    corpus: str | None = option(None, "corpus file or folder (Anserini or BEIR JSONL, MS MARCO TSV, DPR TSV)")
    ir_dataset: str | None = option(None, "name of an ir_datasets collection", metavar="NAME")

    def open_passages(self) -> Any:
        """The passages (see `qpeft_rerank.passages`).

        Raises `InputError` if nothing, or more than one thing, names them.
        """
        from qpeft_rerank.passages import open_passages

        given = {
            name: value
            for name in ("index", "corpus", "ir_dataset")
            if (value := getattr(self, name)) is not None
        }
        if len(given) > 1:
            raise InputError(
                "passages: give one of " + ", ".join(f"--{n.replace('_', '-')}" for n in given) + ", not all"
            )
        if not given and (collection := self.load()) is not None:
            given = collection.passages()
        if not given:
            raise InputError(
                "no passages given: name them with --index or --corpus, or a collection file with -c"
            )
        return open_passages(**given)


@dataclass(kw_only=True)
class ModelOptions:
    """The base model and how it is loaded."""

    title: ClassVar[str] = "base model"

    model: str | None = option(
        None, "causal language model: Hugging Face name or folder; 'demo' is the small one in the package"
    )
    dtype: str | None = option(
        None,
        "type of its weights (default: bfloat16 on a GPU or CPU that computes in it, else float32)",
        choices=("float32", "bfloat16", "float16"),
    )
    device: str | None = option(None, "cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    device_map: str | None = option(
        None, "spread the model over devices, e.g. auto; instead of --device", metavar="MAP"
    )
    quantize: str | None = option(
        None, "load the weights with 8 or 4 bits (needs bitsandbytes)", choices=("8bit", "4bit")
    )
    lora: str | None = option(None, "peft LoRA that the model carries: folder or Hugging Face name")
    revision: str | None = option(
        None, "branch, tag or commit on the hub: of the adapter, where one is named, else of the model"
    )

    def base_options(self) -> dict[str, str]:
        """Those that are given, as arguments of `load_base`, without the model's name."""
        names = ("dtype", "device", "device_map", "quantize", "lora", "revision")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(kw_only=True)
class InputRunOptions:
    """The run that a stage reads."""

    title: ClassVar[str] = "run"

    run_file: str | None = option(
        None,
        "run to read, TREC or MS MARCO's (.gz too); '-' or nothing: stdin",
        positional=True,
        metavar="RUN",
    )
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

    def __post_init__(self) -> None:
        check_runtag(self.runtag)  # now, not when a model has been loaded


def check_runtag(tag: str | None) -> None:
    """Raise `InputError` for a tag with white space."""
    if tag and re.search(r"\s", tag, re.ASCII):
        raise InputError(f"--runtag: {tag!r} has white space: it is one column of the run")


def check_stdin(run: InputRunOptions, **others: str | None) -> None:
    """Raise `InputError` where stdin is to be two inputs: the run, or others by their flag."""
    sources = {"run": run.run or run.run_file or "-", **others}
    names = [name.replace("_", " ") for name, source in sources.items() if source == "-"]
    if len(names) > 1:
        raise InputError(f"the {names[0]} and the {names[1]} cannot both come from stdin")


def stdin_run() -> str:
    """ "-", or an `InputError` where nothing is piped in and a terminal would wait for typing for ever."""
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        raise InputError("no run given: name a run file, or pipe one in (qpeft bm25 ... | qpeft ...)")
    return "-"
