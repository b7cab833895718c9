"""Plain text, or a corpus in the order of its documents -> passages, each with the one that follows it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from qpeft_rerank.corpora import corpus_files, line_parser, read_corpus
from qpeft_rerank.errors import InputError
from qpeft_rerank.files import read_lines
from qpeft_rerank.models.inputs import passage_text

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


class Followed(NamedTuple):
    """A passage's text and the text of the next passage of its document, empty at the document's end."""

    text: str
    following: str


def read_texts(sources: Iterable[str | Path], words: int) -> list[Followed]:
    """The passages of files or folders.

    A corpus (a form of `corpora`) gives its own passages; those of one document follow each other and have
    the same title. Any other file is plain text: an empty line between documents, and in a document any
    number of lines; it is cut at ends of sentences.

    Args:
        sources: files and folders, .gz too.
        words: of a passage cut from plain text, about.

    Raises:
        InputError: a file cannot be read, or there is no text. FormatError: a malformed line of a corpus.
    """
    found: list[Followed] = []
    for source in sources:
        for file in corpus_files(source):
            documents = _of_corpus(file) if _is_corpus(file) else _of_text(file, words)
            for passages in documents:
                found += [Followed(*pair) for pair in zip(passages, [*passages[1:], ""])]
    if not found:
        raise InputError(f"there is no text in {', '.join(map(str, sources))}")
    return found


def cut_document(text: str, words: int) -> list[str]:
    """Passages of about ``words`` words, cut at ends of sentences; a short rest stays with the last one."""
    passages: list[str] = []
    held: list[str] = []
    count = 0
    for sentence in _SENTENCE_END.split(text.strip()):
        held.append(sentence)
        count += len(sentence.split())
        if count >= words:
            passages.append(" ".join(held))
            held, count = [], 0
    if count and passages and count < words / 4:
        passages[-1] += " " + " ".join(held)
    elif count:
        passages.append(" ".join(held))
    return passages


def _is_corpus(file: Path) -> bool:
    for _, line in read_lines(file, "text"):
        if line.strip():
            try:
                line_parser(line)
            except ValueError:
                return False
            return True
    return False


def _of_corpus(file: Path) -> Iterator[list[str]]:
    title, passages = "", []
    for passage in read_corpus(file, unique=False):
        text = passage_text(passage, "title text")
        if not text.strip():
            continue  # nothing to learn from
        if passages and (passage.title != title or not title):
            yield passages
            passages = []
        title = passage.title
        passages.append(text)
    if passages:
        yield passages


def _of_text(file: Path, words: int) -> Iterator[list[str]]:
    held: list[str] = []
    for _, line in read_lines(file, "text"):
        if line.strip():
            held.append(line.strip())
        elif held:
            yield cut_document(" ".join(held), words)
            held = []
    if held:
        yield cut_document(" ".join(held), words)
