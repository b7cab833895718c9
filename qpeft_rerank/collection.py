"""Collection file: a TOML file that names index, corpus, topics and qrels of a collection once.

    name = "squad"
    index = "indexes/squad"          # folder, or a Pyserini prebuilt name
    corpus = "corpus/docs.jsonl"

    [topics]                         # by split
    train = "topics.train.tsv"
    test = "topics.test.tsv"

    [qrels]
    train = "qrels.train.txt"
    test = "qrels.test.txt"

A relative path is relative to the folder of the TOML file, never to the working folder. A value is a path if
it has a slash or the ending of a file (``.tsv``), or if something of that name lies beside the TOML file. Any
other value is a name (of a prebuilt index, of Pyserini's topics or qrels) and is kept as it is.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qpeft_rerank.errors import FormatError, InputError
from qpeft_rerank.files import may_be_name

TEXT_KEYS = ("name", "index", "corpus", "ir-dataset")
TABLE_KEYS = ("topics", "qrels")


@dataclass(frozen=True)
class Collection:
    """What a collection file says, with paths made usable from any folder.

    Attributes:
        path: the TOML file.
        name: short name, used in file names and tables; the file's own name if it says none.
        index: Lucene index, folder or prebuilt name.
        corpus: corpus file or folder.
        ir_dataset: name in ir_datasets.
        topics, qrels: file or name by split.
    """

    path: Path
    name: str
    index: str | None = None
    corpus: str | None = None
    ir_dataset: str | None = None
    topics: Mapping[str, str] = field(default_factory=dict)
    qrels: Mapping[str, str] = field(default_factory=dict)

    def topics_of(self, split: str) -> str:
        """Topics of ``split``. Raises `InputError` that names the splits there are."""
        return self._of("topics", self.topics, split)

    def qrels_of(self, split: str) -> str:
        """Qrels of ``split``. Raises `InputError` that names the splits there are."""
        return self._of("qrels", self.qrels, split)

    def required(self, key: str) -> str:
        """Value of ``index`` or ``corpus``. Raises `InputError` if the file does not name it."""
        value = getattr(self, key)
        if value is None:
            raise InputError(f"{self.path}: the collection names no {key}")
        return value

    def index_folder(self) -> str:
        """Where to build the index: always a path, even if it is named like a prebuilt one.

        Raises `InputError` if the file names no index.
        """
        index = self.required("index")
        return index if _is_path(index) else str(self.path.parent / index)

    def passages(self) -> dict[str, str]:
        """Where passages come from, as arguments of `open_passages`: the index if it is there, else the
        corpus, else a prebuilt index, else ir_datasets.
        """
        # A bare name beside a corpus is more likely an index that is not built yet than a prebuilt one.
        prebuilt = self.index and not _is_path(self.index) and not self.corpus
        usable_index = self.index and (os.path.exists(self.index) or prebuilt)
        if usable_index or not (self.corpus or self.ir_dataset):
            return {"index": self.required("index")}
        return {"corpus": self.corpus} if self.corpus else {"ir_dataset": str(self.ir_dataset)}

    def _of(self, kind: str, table: Mapping[str, str], split: str) -> str:
        if split not in table:
            there = f"there are {', '.join(table)}" if table else "there are none"
            raise InputError(f"{self.path}: the collection has no {kind} of split {split!r}; {there}")
        return table[split]


def load_collection(path: str | Path) -> Collection:
    """Read a collection file.

    Raises:
        InputError: no such file.
        FormatError: not TOML, an unknown key, or a value that is no text.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such collection file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder, not a collection file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FormatError(path, None, f"not a TOML file: {error}") from error
    known = (*TEXT_KEYS, *TABLE_KEYS)
    for key in content:
        if key not in known:
            raise FormatError(path, None, f"unknown key {key!r}; known are {', '.join(known)}")
    texts = {key: _text(path, key, content[key]) for key in TEXT_KEYS if key in content}
    tables = {key: _table(path, key, content[key]) for key in TABLE_KEYS if key in content}
    folder = path.parent
    return Collection(
        path=path,
        name=texts.get("name", path.stem),
        index=_resolved(folder, texts.get("index")),
        corpus=_resolved(folder, texts.get("corpus"), always=True),
        ir_dataset=texts.get("ir-dataset"),
        **{
            key: {split: _resolved(folder, value) for split, value in table.items()}
            for key, table in tables.items()
        },
    )


def _is_path(value: str) -> bool:
    return "/" in value or os.sep in value


def _resolved(folder: Path, value: str | None, always: bool = False) -> str | None:
    if value is None:
        return None
    there = folder / os.path.expanduser(value)
    # What lies under that name in the working folder is none: whoever opens the name would take it.
    return value if may_be_name(value) and not always and not there.exists() else str(there)


def _text(path: Path, key: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise FormatError(path, None, f"{key}: {value!r} is not a text")
    return value


def _table(path: Path, key: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise FormatError(
            path, None, f'{key}: expected a table [{key}] of split = "file or name", found {value!r}'
        )
    return {split: _text(path, f"{key}.{split}", source) for split, source in value.items()}
