"""Topics and qrels by the names that Pyserini knows, such as ``dl19-passage``.

Pyserini fetches the files once and keeps them. Its own ``get_topics`` and ``get_qrels`` turn ids of digits
into integers ("007" into 7); here ids are the strings that stand in the files.
"""

from __future__ import annotations

import difflib
import logging
from pathlib import Path
from typing import Any

from qpeft_rerank.errors import InputError
from qpeft_rerank.java import ensure_jvm, java_calls
from qpeft_rerank.trec import read_qrels

READERS = "io.anserini.search.topicreader."
NOT_FETCHED = "Pyserini cannot fetch them (no network?)"
# What Anserini calls the parts of a topic. It searches with the title, or what stands for one.
TEXT_FIELDS = {
    "title": ("title", "question", "query", "description"),
    "desc": ("description",),
    "narr": ("narrative",),
}


def topics_by_name(name: str, field: str = "title") -> dict[str, str]:
    """The topics that Pyserini calls ``name``: topic id -> text.

    ``field`` is a part of TREC topics (title, desc, narr), or one that the topics have by that very name.
    Raises InputError if Pyserini does not know the name or cannot fetch the file, or a topic lacks the field.
    """
    pyserini = _pyserini_search()
    topics = _known(name, pyserini.topics_mapping, "topics", "a topics file")
    with java_calls(f"topics {name}: {NOT_FETCHED}"):
        fields_of = _read_topics(pyserini, topics)
        found = {str(qid): _fields(fields_of.get(qid)) for qid in fields_of.keySet().toArray()}
    if not found:
        raise InputError(f"topics {name}: Pyserini's file has no topic")
    return {qid: _text(name, qid, found[qid], field) for qid in sorted(found, key=_numbers_first)}


def qrels_by_name(name: str) -> dict[str, dict[str, int]]:
    """The qrels that Pyserini calls ``name``: topic id -> docid -> grade.

    Raises InputError if Pyserini does not know the name or cannot fetch the file.
    """
    pyserini = _pyserini_search()
    qrels = _known(name, pyserini.qrels_mapping, "qrels", "a qrels file")
    with java_calls(f"qrels {name}: {NOT_FETCHED}"):
        path = Path(pyserini.JRelevanceJudgments.getQrelsPath(pyserini.JPath.of(qrels.path)).toString())
    grades = read_qrels(path)
    if not grades:
        raise InputError(f"qrels {name}: Pyserini's copy {path} is empty; remove it to have it fetched again")
    return grades


def _pyserini_search() -> Any:
    """Pyserini's tables of names. Their import sets up the root logger, the program's own affair: undone."""
    ensure_jvm()
    root = logging.getLogger()
    before = list(root.handlers), root.level
    try:
        import pyserini.search._base as search
    finally:
        root.handlers[:], root.level = before[0], before[1]
    return search


def _known(name: str, known: dict[str, Any], kind: str, file: str) -> Any:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f" (near: {', '.join(near)})" if near else ""
        raise InputError(f"{name}: neither {file} nor the name of {kind} that Pyserini knows{hint}")
    return known[name]


def _read_topics(pyserini: Any, topics: Any) -> Any:
    """A Java map from topic id to the fields of the topic."""
    if not str(topics.readerClass).endswith("TsvIntTopicReader"):
        return pyserini.JTopicReader.getTopicsWithStringIds(topics)
    # The same format, but read with ids as they stand there.
    path = pyserini.JTopicReader.getTopicPath(pyserini.JPath.of(topics.path))
    return pyserini.JTopicReader.getTopicsWithStringIdsFromFileWithTopicReaderClass(
        READERS + "TsvStringTopicReader", path.toString()
    )


def _fields(fields: Any) -> dict[str, str]:
    return {str(key): str(fields.get(key)) for key in fields.keySet().toArray()}


def _numbers_first(qid: str) -> tuple[bool, int, str]:
    """Sorting key: as Pyserini orders topics, numbers by value; Java's map has no order of its own."""
    is_number = qid.isascii() and qid.isdigit()
    return not is_number, int(qid) if is_number else 0, qid


def _text(name: str, qid: str, fields: dict[str, str], wanted: str) -> str:
    for field in TEXT_FIELDS.get(wanted, (wanted,)):
        if field in fields:
            return fields[field].strip()
    raise InputError(f"topics {name}: topic {qid} has no {wanted} (fields: {', '.join(sorted(fields))})")
