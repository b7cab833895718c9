"""The text of candidates: passages by id from a Lucene index, a corpus file or ir_datasets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from qpeft_rerank.corpora import Passage, passage_of_record
from qpeft_rerank.errors import DependencyError, InputError, MissingPassageError, one_line

__all__ = ["IndexPassages", "IrDatasetPassages", "Passage", "Passages", "open_passages", "passage_of_hit"]


class Passages(Protocol):
    """Where passages come from. ``name`` is for messages.

    Where it has a ``fingerprint``, too, a text that changes when the passages do, a resumed run notices the
    change.
    """

    name: str

    def get(self, docids: Sequence[str]) -> dict[str, Passage]:
        """The passages with these ids; an id that is not there is absent from the result."""
        ...


def open_passages(
    index: str | Path | None = None, corpus: str | Path | None = None, ir_dataset: str | None = None
) -> Passages:
    """Open one source of passages.

    Args:
        index: a Lucene index that stores its text, by folder or by the name of one of Pyserini's prebuilt
            indexes.
        corpus: a corpus file or folder in one of the forms of :mod:`qpeft_rerank.corpora`.
        ir_dataset: a name that ir_datasets knows, such as ``msmarco-passage``.

    Raises InputError unless exactly one is given, and if it cannot be opened.
    """
    given = [
        name for name, value in (("index", index), ("corpus", corpus), ("ir_dataset", ir_dataset)) if value
    ]
    if len(given) != 1:
        raise InputError(f"expected one of index, corpus and ir_dataset, found {', '.join(given) or 'none'}")
    if index:
        return IndexPassages(index)
    if corpus:
        from qpeft_rerank.corpus_file import CorpusFile

        return CorpusFile(corpus)
    assert ir_dataset is not None
    return IrDatasetPassages(ir_dataset)


def all_passages(passages: Passages, docids: Sequence[str], qid: str) -> dict[str, Passage]:
    """The passages of a topic. Raises `MissingPassageError` if one is not there."""
    found = passages.get(docids)
    for docid in docids:
        if docid not in found:
            raise MissingPassageError(docid, passages.name, qid)
    return found


class IndexPassages:
    """Passages stored in a Lucene index, whether this package or Pyserini built it."""

    def __init__(self, index: str | Path):
        from qpeft_rerank.lucene import open_index

        self._index = open_index(index)
        self.name = f"the index {index}"
        self.fingerprint = self._index.fingerprint

    def get(self, docids: Sequence[str]) -> dict[str, Passage]:
        """See :class:`Passages`. Raises InputError if the index stores no text that can be understood."""
        from qpeft_rerank.java import java_calls, java_list

        wanted = list(dict.fromkeys(docids))
        stored: dict[str, Stored] = {}
        with java_calls(f"{self.name} cannot be read"):
            documents = self._index.searcher.batch_get_docs(java_list(wanted), 1)
            for docid in wanted:
                document = documents.get(docid)
                if document is not None:
                    stored[docid] = _stored_in(document)
        return {docid: _passage_of_stored(docid, found, self.name) for docid, found in stored.items()}


class IrDatasetPassages:
    """Passages of a data set that ir_datasets knows and fetches."""

    def __init__(self, name: str):
        try:
            import ir_datasets
        except ImportError as error:
            raise DependencyError(
                'ir_datasets is not installed: pip install "qpeft-rerank[ir_datasets]"'
            ) from error
        self.name = f"ir_datasets {name}"
        try:
            dataset = ir_datasets.load(name)
        except KeyError as error:
            raise InputError(f"ir_datasets does not know {name!r}") from error
        if not dataset.has_docs():
            raise InputError(f"ir_datasets {name} has no documents")
        try:
            self._store = dataset.docs_store()
        except Exception as error:  # its downloads and unpackers raise whatever they raise
            raise InputError(f"{self.name} cannot be opened: {one_line(error)}") from error

    def get(self, docids: Sequence[str]) -> dict[str, Passage]:
        """See :class:`Passages`."""
        try:
            documents = self._store.get_many(list(dict.fromkeys(docids)))
        except Exception as error:  # as above: the first look-up may fetch
            raise InputError(f"{self.name} cannot be read: {one_line(error)}") from error
        return {docid: _passage_of_ir_document(docid, document) for docid, document in documents.items()}


def passage_of_hit(hit: Any) -> Passage:
    """The passage of a hit as Pyserini's ``LuceneSearcher.search`` gives it.

    Raises InputError if the index that it comes from stores no text, or for what is no hit.
    """
    if isinstance(hit, (str, tuple, dict)):  # said before Java is started
        raise InputError(f"expected a Passage or a hit of LuceneSearcher, found {type(hit).__name__}")
    from qpeft_rerank.java import java_calls

    with java_calls("a hit cannot be read"):
        docid = str(hit.docid)
        document = getattr(hit, "lucene_document", None)
        if document is None:
            raise InputError(f"the hit {docid!r} carries no document: search an index that stores its text")
        stored = _stored_in(document)
    return _passage_of_stored(docid, stored, "the index of the hits")


class Stored(NamedTuple):
    """What a Lucene document keeps of a passage: its JSON, its text as it was indexed, or both."""

    raw: str | None
    contents: str | None


def _stored_in(document: Any) -> Stored:
    return Stored(document.get("raw"), document.get("contents"))


def _passage_of_stored(docid: str, stored: Stored, where: str) -> Passage:
    raw, contents = stored
    if raw is None or not raw.lstrip().startswith("{"):
        if contents is not None:
            return passage_of_record(docid, {"contents": contents})
        if raw is None:
            raise InputError(
                f"{where} stores no text (it was built without --storeRaw and --storeContents):"
                " give the corpus, or build the index again"
            )
        raise InputError(f"{where}: the text stored for {docid!r} is not JSON (give the corpus instead)")
    try:
        return passage_of_record(docid, json.loads(raw))
    except ValueError as error:
        raise InputError(f"{where}: the JSON stored for {docid!r} cannot be used: {error}") from error


def _passage_of_ir_document(docid: str, document: Any) -> Passage:
    title = getattr(document, "title", None) or ""
    text = getattr(document, "text", None)
    if text is None:  # other fields: the data set says itself what its text is
        return Passage(docid, "", str(document.default_text()))
    return Passage(docid, str(title), str(text))
