"""Topics: query texts by qid, from TSV, TREC ``<top>``, XML or JSONL files, told apart by their content."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TextIO
from xml.etree import ElementTree
from xml.sax.saxutils import unescape

from qpeft_rerank.errors import FormatError, InputError
from qpeft_rerank.files import Source, atomic_write, may_be_name, read_if_source, read_lines, source_name
from qpeft_rerank.frames import Frame, topics_of_frame

FORMATS = ("tsv", "trec", "jsonl")
_ID_KEYS = ("qid", "id", "_id", "query_id")
_TEXT_KEYS = ("text", "query", "title", "question")
# What a first line of TSV may name its two columns: a header, no topic.
_TSV_IDS, _TSV_TEXTS = (*_ID_KEYS, "query-id", "topic_id"), (*_TEXT_KEYS, "contents")
# Only known tags are tags: a title may say "a < b" or "<br>".
_TREC_TAGS = ("top", "num", "title", "desc", "narr", "dom", "head", "smry", "con", "fac", "def", "query")
# A field's names in JSON and in XML.
_FIELD_NAMES = {
    "title": _TEXT_KEYS,
    "desc": ("desc", "description", "question"),
    "narr": ("narr", "narrative"),
}
_NO_TOPIC = "XML without <top> or <topic>: write a topic a line, qid<TAB>text"
_QUOTES = {"&quot;": '"', "&apos;": "'"}
# Words that TREC's files repeat after a tag.
_TREC_LABELS = {
    "num": "number",
    "title": "topic|title",
    "desc": "description",
    "narr": "narrative",
}

Topics = Source | Mapping[str, str] | Frame
"""Topics: a file or name; qid -> text; or a data frame."""


class _Topic(NamedTuple):
    line: int
    qid: str
    text: str


def read_topics(source: Source, topics_format: str | None = None, field: str = "title") -> dict[str, str]:
    """Read topics: qid -> query text, in the order of the file. "007" stays "007".

    ``topics_format`` is "tsv" (``qid<TAB>text``, with a header or not), "trec" (``<top>``, or XML with
    ``<topic number="1">``), "jsonl" or None: by content. ``field`` chooses the text of TREC and JSONL topics
    (title, desc, narr). A string that names no file is taken for a name that Pyserini knows, which knows the
    form too. Texts may be empty. Raises InputError for a file or name that cannot be read and FormatError,
    with file and line, for malformed lines, a qid that comes twice and a field that is not there.
    """
    if topics_format not in (None, *FORMATS):
        raise InputError(f"topics format {topics_format!r} is unknown: expected one of {', '.join(FORMATS)}")
    if may_be_name(source):
        if topics_format is not None:
            raise InputError(f"{source}: is no file, and a Pyserini name takes no topics format")
        from qpeft_rerank.pyserini_names import topics_by_name

        return topics_by_name(source, field)
    name = source_name(source)
    lines = ((number, text) for number, text in read_lines(source, "topics file") if text.strip())
    first = next(lines, None)
    if first is None:
        return {}
    topics_format = topics_format or _format_of(*first, name)
    field = field.lower()
    if topics_format != "tsv" or not _is_header(*first, name):
        lines = chain([first], lines)
    if topics_format == "trec":
        found = _read_trec(lines, name, field)
    elif topics_format == "jsonl":
        found = (_json_topic(number, text, name, field) for number, text in lines)
    else:
        if field != "title":
            raise FormatError(name, first[0], f"a topic of a TSV file has one text, no field {field!r}")
        found = (_tsv_topic(number, text, name) for number, text in lines)
    topics: dict[str, str] = {}
    for line, qid, text in found:
        if not qid or len(qid.split()) != 1:
            raise FormatError(name, line, f"the qid {qid!r} is empty or has white space")
        if qid in topics:
            raise FormatError(name, line, f"topic {qid!r} comes twice")
        topics[qid] = text.strip()
    if topics_format == "trec" and not topics:
        raise FormatError(name, first[0], _NO_TOPIC)
    return topics


def as_topics(topics: Topics) -> Mapping[str, str]:
    """Topics as qid -> text, whether they are given as a file or name (:func:`read_topics`), as a data frame
    (`frames`) or so.
    """
    if isinstance(topics, Frame):
        topics = topics_of_frame(topics)
    return read_if_source(topics, read_topics, Mapping, "topics")


def write_topics(topics: Topics, target: str | Path | TextIO) -> None:
    """Write topics as TSV. Line breaks and tabs become spaces. Raises InputError for an impossible qid."""
    texts = as_topics(topics)
    with atomic_write(target) as out:
        for qid, text in texts.items():
            out.write(format_topic(qid, text))


def format_topic(qid: str, text: str) -> str:
    """One topic as a TSV line."""
    if not qid or len(qid.split()) != 1:
        raise InputError(f"the qid {qid!r} is empty or has white space")
    line = re.sub(r"[\t\r\n]+", " ", text).strip()
    return f"{qid}\t{line}\n"


def _format_of(number: int, line: str, name: str) -> str:
    start = line.lstrip().lower()
    if start.startswith("<"):
        return "trec"
    if start.startswith("["):
        raise FormatError(name, number, "a JSON array is no topics file: write one object per line (JSONL)")
    return "jsonl" if start.startswith("{") else "tsv"


def _is_header(number: int, line: str, name: str) -> bool:
    """Whether a TSV file begins with a header; one that is not known would become a topic."""
    columns = [column.strip().lower() for column in line.split("\t")]
    if len(columns) != 2 or columns[0] not in _TSV_IDS:
        return False
    if columns[1] not in _TSV_TEXTS:
        known = ", ".join(_TSV_TEXTS)
        raise FormatError(
            name, number, f"the header {line.strip()!r} is not known: name the text one of {known}"
        )
    return True


def _tsv_topic(number: int, line: str, name: str) -> _Topic:
    qid, tab, text = line.partition("\t")
    if not tab:
        raise FormatError(name, number, "expected qid<TAB>text, found no tab")
    if "\t" in text:  # a third column, such as a title, would silently become part of the query
        raise FormatError(name, number, f"expected qid<TAB>text, found {line.count(tab)} tabs")
    return _Topic(number, qid.strip(), text)


def _json_topic(number: int, line: str, name: str, field: str) -> _Topic:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise FormatError(name, number, f"not JSON: {error}") from None
    if not isinstance(record, dict):
        raise FormatError(name, number, "expected a JSON object with an id and a text")
    qid = next((record[key] for key in _ID_KEYS if key in record), None)
    text_keys = _FIELD_NAMES.get(field, (field,))
    text = next((record[key] for key in text_keys if key in record), None)
    if isinstance(qid, int) and not isinstance(qid, bool):
        qid = str(qid)
    for what, value, keys in (("id", qid, _ID_KEYS), ("text", text, text_keys)):
        if not isinstance(value, str):
            raise FormatError(name, number, f"expected the {what} as text under one of: {', '.join(keys)}")
        if not value.isascii() and re.search("[\ud800-\udfff]", value):
            raise FormatError(name, number, f"the {what} has half of a surrogate pair")
    return _Topic(number, qid, text)


def _read_trec(lines: Iterable[tuple[int, str]], name: str, field: str) -> Iterator[_Topic]:
    """Topics of the form ``<top> <num> Number: 301 <title> text <desc> ... </top>``, closing tags or not; or
    of XML, where the first line is no ``<top>``.
    """
    first = next(lines := iter(lines))
    lines = chain([first], lines)
    if not first[1].lstrip().lower().startswith("<top>"):
        lines = list(lines)
        if found := _read_xml("\n".join(line for _, line in lines), first[0], name, field):
            yield from found
            return
    tags = re.compile(rf"<(/?)({'|'.join(map(re.escape, {*_TREC_TAGS, field}))})>", re.IGNORECASE)
    fields: dict[str, list[str]] = {}
    start = 0  # the line of the topic's <top>, 0 outside of topics
    current = None  # the field that text belongs to
    for number, line in lines:
        # Text and tags by turns: text, then ("/" or "", tag, text) for each tag.
        pieces = tags.split(line)
        for slash, tag, text in zip(["", *pieces[1::3]], ["", *pieces[2::3]], pieces[0::3]):
            tag = tag.lower()
            if tag == "top":
                if start:
                    yield _trec_topic(fields, start, name, field)
                start, fields, current = (0 if slash else number), {}, None
            elif tag:
                current = None if slash else tag
                if current:
                    fields.setdefault(current, [])
            if current:
                fields[current].append(text)
            elif text.strip() and not text.strip().startswith("<"):
                where = "outside of a field" if start else "outside of <top>"
                raise FormatError(name, number, f"text {where}: {text.strip()[:40]!r}")
    if start:
        yield _trec_topic(fields, start, name, field)


def _read_xml(text: str, line: int, name: str, field: str) -> list[_Topic]:
    """Topics of the form ``<topic number="1"> <query> text </query> ... </topic>`` (Web tracks, TREC-COVID),
    or with the text right in the topic; none if it is another form.
    """
    try:
        topics = list(ElementTree.fromstring(text).iter("topic"))
    except ElementTree.ParseError:
        return []
    found = []
    for topic in topics:
        fields = {child.tag.lower(): "".join(child.itertext()) for child in topic}
        if not fields and field == "title":
            fields["title"] = topic.text or ""
        fields["num"] = topic.get("number", "")
        tag = next((tag for tag in (field, *_FIELD_NAMES.get(field, ())) if tag in fields), None)
        if tag is None:
            there = ", ".join(fields)
            raise FormatError(name, line, f"topic {fields['num']!r} has no <{field}>, only: {there}")
        found.append(_Topic(line, fields["num"], " ".join(fields[tag].split())))
    return found


def _trec_topic(fields: dict[str, list[str]], line: int, name: str, field: str) -> _Topic:
    for tag in ("num", field):
        if tag not in fields:
            raise FormatError(name, line, f"the topic has no <{tag}>, only: {', '.join(fields) or 'nothing'}")
    qid, text = (_without_label(tag, " ".join(" ".join(fields[tag]).split())) for tag in ("num", field))
    return _Topic(line, qid, unescape(text, _QUOTES))


def _without_label(tag: str, text: str) -> str:
    return re.sub(rf"^(?:{_TREC_LABELS.get(tag, tag)})\s*:\s*", "", text, flags=re.IGNORECASE)
