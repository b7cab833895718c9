"""Read a corpus of passages, one at a time, from the forms that the field uses.

==================  ==================================================================================
Anserini JSONL      one object a line: ``id``, ``contents``, and, if there is one, ``title``
BEIR JSONL          one object a line: ``_id``, ``title``, ``text``
MS MARCO TSV        ``id<TAB>text``
DPR TSV             ``id<TAB>text<TAB>title`` (``psgs_w100.tsv``), fields quoted as in CSV, with a header line
==================  ==================================================================================

The form is told from the first line, not from the name. Files may be gzipped; a folder is read file by file
in the order of the names. Every malformed line is a :class:`FormatError` with file and line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from qpeft_rerank.errors import FormatError, InputError
from qpeft_rerank.files import is_regular_file, open_bytes, read_lines

TEXT_SUFFIXES = {".json", ".jsonl", ".tsv", ".txt"}  # what is read from a folder, with or without ".gz"
# Where the text stands: BEIR, Anserini, MS MARCO V2 passages, V2.1 segments, V2 documents.
TEXT_KEYS = ("text", "contents", "passage", "segment", "body", "content")
ID_NAMES = ("id", "_id", "docid", "doc_id", "doc-id", "docno", "pid", "passage_id")  # of a header, no docid
HEADERS = (["id", "text", "title"], ["id", "title", "text"], ["id", "text"], ["id", "contents"])


class Passage(NamedTuple):
    """A passage of a corpus: its id, its title (empty if it has none) and its text without the title."""

    docid: str
    title: str
    text: str


# One line (without its line break) -> a passage. Raises ValueError with the reason if the line is malformed.
LineParser = Callable[[str], Passage]


def read_corpus(path: str | Path, unique: bool = True) -> Iterator[Passage]:
    """Yield the passages of a file or folder in the order they stand there.

    With ``unique`` a second passage with an id that was seen is an error that names both places; the ids seen
    so far are kept for that (about 100 bytes per passage: 2 GB for the 21 million of ``psgs_w100.tsv``).
    Lines without text between other lines are skipped.

    Raises :class:`InputError` for a path that cannot be read and :class:`FormatError` for a malformed line.
    """
    files = corpus_files(path)
    seen: set[str] = set()
    for file in files:
        for number, passage in _numbered_passages(file):
            if unique:
                if passage.docid in seen:
                    first = _where_is(passage.docid, files)
                    raise FormatError(
                        file, number, f"passage id {passage.docid!r} occurs twice (first in {first})"
                    )
                seen.add(passage.docid)
            yield passage


def count_passages(path: str | Path) -> int | None:
    """How many passages a file or folder has by its lines, which are not parsed.

    None where that is not cheap (a gzipped file) or not possible (a pipe).
    """
    count = 0
    for file in corpus_files(path):
        if not is_regular_file(file):
            return None
        with open_bytes(file, "corpus file") as stream:
            if not stream.seekable():
                return None
            lines = (line for line in stream if line.strip())
            first = next(lines, b"").decode("utf-8-sig", errors="replace")
            count += bool(first) and first.rstrip("\r\n").split("\t") not in HEADERS
            count += sum(1 for _ in lines)
    return count


def corpus_files(path: str | Path) -> list[Path]:
    """The files of a corpus: the file itself, or those in a folder (not in its subfolders) by name; of a data
    set of BEIR, whose queries lie beside it, the corpus alone.
    """
    root = Path(path)
    if root.is_dir():
        files = sorted(file for file in root.iterdir() if file.is_file() and _is_corpus_name(file.name))
        corpus = [file for file in files if file.name.startswith("corpus.jsonl")]
        if corpus and any(file.name.startswith("queries.jsonl") for file in files):
            files = corpus
        if not files:
            kinds = ", ".join(sorted(TEXT_SUFFIXES))
            raise InputError(f"{root}: the folder has no corpus file ({kinds}, each also with .gz)")
        return files
    if not root.exists():
        raise InputError(f"{root}: no such file or folder")
    return [root]


def line_parser(first_line: str) -> tuple[LineParser, bool]:
    """The parser for a file that begins with ``first_line``, and whether that line is a header to be skipped.

    Raises ValueError if the line fits none of the forms.
    """
    line = first_line.rstrip("\r\n")
    if line.lstrip().startswith("{"):
        return parse_json, False
    if line.lstrip().startswith("["):
        raise ValueError("a JSON array is not a corpus: write one object per line (JSONL)")
    columns = line.split("\t")
    if columns in HEADERS:
        return _tsv_parser(columns), True
    if columns[0].lower() in ID_NAMES:  # taken for a passage, it would be searched
        known = " or ".join("<tab>".join(header) for header in HEADERS)
        raise ValueError(f"the header {'<tab>'.join(columns)!r} is not known: name the columns {known}")
    if len(columns) == 2:
        return _tsv_parser(["id", "text"]), False
    if len(columns) == 3:
        return _tsv_parser(["id", "text", "title"]), False
    raise ValueError(
        "expected a JSON object, or 2 (id, text) or 3 (id, text, title) columns between tabs,"
        f" found {len(columns)} column{'s' if len(columns) != 1 else ''}"
    )


def parse_json(line: str) -> Passage:
    """A passage from one line of JSON: Anserini's (``id, contents``) or BEIR's (``_id, title, text``) form.

    Raises ValueError with the reason if the line is malformed.
    """
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error.msg} (column {error.colno})") from error
    except RecursionError as error:
        raise ValueError("not valid JSON: nested too deeply") from error
    if not isinstance(record, dict):
        raise ValueError(f"expected a JSON object, found {type(record).__name__}")
    docid = _check_id(_first_of(record, "id", "_id", "docid", "pid"))
    return passage_of_record(docid, record)


def passage_of_record(docid: str, record: dict[str, Any]) -> Passage:
    """The passage in a decoded JSON record, be it from a corpus file or stored in a Lucene index.

    ``contents`` that begins with the record's title and a line break is split there, and so is Pyserini's
    form of the DPR passages, whose ``contents`` begins with a line that holds the title between double
    quotes.
    Raises ValueError if there is no text or a field is not a string.
    """
    title = _text_of(record, "title") or ""
    key = next((key for key in TEXT_KEYS if record.get(key) is not None), None)
    if key is None and not (title and any(key in record for key in TEXT_KEYS)):
        raise ValueError(f"the record of {docid!r} has no text (looked for {', '.join(TEXT_KEYS)})")
    contents = (key and _text_of(record, key)) or ""
    if key != "contents":
        return Passage(docid, title, contents)
    if title and contents.startswith(title + "\n"):
        return Passage(docid, title, contents[len(title) + 1 :])
    if "title" not in record and contents.startswith('"'):
        head, line_break, rest = contents.partition("\n")
        if line_break and len(head) > 2 and head.endswith('"'):
            return Passage(docid, head[1:-1], rest)
    return Passage(docid, title, contents)


def contents_of(passage: Passage) -> str:
    """What is indexed of a passage: its title on a line of its own, if it has one, then its text."""
    return f"{passage.title}\n{passage.text}" if passage.title else passage.text


def _numbered_passages(file: Path) -> Iterator[tuple[int, Passage]]:
    parse: LineParser | None = None
    for number, line in read_lines(file, "corpus file"):
        if not line.strip():
            continue
        try:
            if parse is None:
                parse, is_header = line_parser(line)
                if is_header:
                    continue
            yield number, parse(line)
        except ValueError as error:
            raise FormatError(file, number, str(error)) from error


def _where_is(docid: str, files: list[Path]) -> str:
    """The place of the first passage with this id; read again, as keeping every place would cost memory."""
    for file in files:
        for number, passage in _numbered_passages(file):
            if passage.docid == docid:
                return f"{file}:{number}"
    return "an earlier line"


def _is_corpus_name(name: str) -> bool:
    path = Path(name.removesuffix(".gz"))
    return not name.startswith(".") and path.suffix.lower() in TEXT_SUFFIXES


def _tsv_parser(columns: list[str]) -> LineParser:
    width = len(columns)
    id_at = columns.index("id")
    text_at = columns.index("text" if "text" in columns else "contents")
    title_at = columns.index("title") if "title" in columns else None

    def parse(line: str) -> Passage:
        fields = line.split("\t")
        if len(fields) != width:
            raise ValueError(
                f"expected {width} columns between tabs ({', '.join(columns)}), found {len(fields)}"
            )
        docid = _check_id(fields[id_at])
        if title_at is None:  # MS MARCO's files are not quoted
            return Passage(docid, "", fields[text_at])
        return Passage(docid, _unquote(fields[title_at]), _unquote(fields[text_at]))

    return parse


def _unquote(field: str) -> str:
    """A field without CSV's quotes, where it has them: quotes around it and every quote inside doubled."""
    if len(field) >= 2 and field[0] == field[-1] == '"':
        inside = field[1:-1]
        if '"' not in inside.replace('""', ""):
            return inside.replace('""', '"')
    return field


def _first_of(record: dict[str, Any], *keys: str) -> Any:
    for key in keys:
        if key in record:
            return record[key]
    raise ValueError(f"the record has no id (looked for {', '.join(keys)})")


def _check_id(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError(f"the id must be a string, found {type(value).__name__}")
    if not value:
        raise ValueError("the id is empty")
    if not value.isprintable() and any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"the id {value!r} has half a character in it")
    if len(value.split()) != 1 or value != value.strip():
        raise ValueError(f"the id {value!r} has white space in it, which no run or qrels file can hold")
    return value


def _text_of(record: dict[str, Any], key: str) -> str | None:
    value = record.get(key)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{key!r} must be a string, found {type(value).__name__}")
    if value is None or value.isascii():
        return value
    # JSON can spell half a character ("\\ud800"), which no file, index or tokenizer takes.
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
