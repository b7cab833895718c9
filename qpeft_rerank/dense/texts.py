"""Plain text, or a corpus in the order of its documents -> passages, each with the one that follows it.

The passages go to a temporary file (in `$TMPDIR`), so that text may be larger than memory: that holds 9 bytes
per passage (where each begins), and 8 more for a mixed order of them (`Picked`).
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, takewhile
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np

from qpeft_rerank.corpora import corpus_files, line_parser, read_corpus
from qpeft_rerank.errors import InputError
from qpeft_rerank.files import read_lines
from qpeft_rerank.models.inputs import passage_text

IN_MEMORY = 64 * 2**20  # bytes of text up to which the temporary file stays in memory
LONGEST_SENTENCE = 2  # times the words of a passage; what has no end of a sentence for so long is cut anyway
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


class Followed(NamedTuple):
    """A passage's text and the text of the next passage of its document, empty at the document's end."""

    text: str
    following: str


class Texts(Sequence[Followed]):
    """Passages in the order of their documents, read from a temporary file one at a time.

    Args:
        passages: whether a document begins there, and the passage's text.
    """

    def __init__(self, passages: Iterable[tuple[bool, str]]):
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)
        self._begins, self._first = array("Q"), array("B")
        digest, end = hashlib.sha256(), 0
        for first, text in passages:
            encoded = text.encode(errors="replace")
            self._begins.append(end)
            self._first.append(first)
            end += self._file.write(encoded)
            digest.update(b"%d %d " % (first, len(encoded)) + encoded)
        self._begins.append(end)
        self._first.append(True)
        self.sha256 = digest.hexdigest()

    @property
    def followed(self) -> int:
        """How many have a next passage."""
        return len(self) - sum(self._first[1:])

    def __len__(self) -> int:
        return len(self._begins) - 1

    @overload
    def __getitem__(self, place: int) -> Followed: ...
    @overload
    def __getitem__(self, place: slice) -> list[Followed]: ...
    def __getitem__(self, place: int | slice) -> Followed | list[Followed]:
        if isinstance(place, slice):
            return [self[i] for i in range(len(self))[place]]
        place = range(len(self))[place]  # IndexError where there is none, and from the end for negative ones
        begin, middle = self._begins[place], self._begins[place + 1]
        end = middle if self._first[place + 1] else self._begins[place + 2]
        self._file.seek(begin)
        both = self._file.read(end - begin)
        return Followed(both[: middle - begin].decode(), both[middle - begin :].decode())


class Picked(Sequence[Followed]):
    """Some of many passages in an order of their own; each is read when it is looked at.

    Args:
        texts: all of them.
        places: which, [N].
    """

    def __init__(self, texts: Sequence[Followed], places: np.ndarray):
        self.texts, self.places = texts, places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, place: int) -> Followed: ...
    @overload
    def __getitem__(self, place: slice) -> Picked: ...
    def __getitem__(self, place: int | slice) -> Followed | Picked:
        if isinstance(place, slice):
            return Picked(self.texts, self.places[place])
        return self.texts[int(self.places[place])]


def read_texts(sources: Iterable[str | Path], words: int) -> Texts:
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
    sources = list(sources)
    files = (file for source in sources for file in corpus_files(source))
    found = Texts(
        passage
        for file in files
        for passage in (_of_corpus(file) if _is_corpus(file) else _of_text(file, words))
    )
    if not found:
        raise InputError(f"there is no text in {', '.join(map(str, sources))}")
    return found


def cut_document(lines: Iterable[str], words: int) -> Iterator[str]:
    """Passages of about ``words`` words, cut at ends of sentences; a short rest stays with the last one."""
    waiting: str | None = None  # a whole passage; the rest may be joined to it
    held: list[str] = []
    count = 0
    for sentence in _sentences(lines, LONGEST_SENTENCE * words):
        held.append(sentence)
        count += len(sentence.split())
        if count >= words:
            if waiting is not None:
                yield waiting
            waiting, held, count = " ".join(held), [], 0
    rest = " ".join(held)
    if waiting is not None and rest and count >= words / 4:
        yield waiting
        waiting = None
    if last := " ".join(filter(None, (waiting, rest))):
        yield last


def _sentences(lines: Iterable[str], most: int) -> Iterator[str]:
    """The sentences of a document, which may go over lines; longer ones in pieces of ``most`` words."""
    begun = ""  # the end of a sentence is known when the next one begins
    for line in lines:
        *whole, begun = _SENTENCE_END.split(f"{begun} {line}".strip())
        for sentence in whole:
            yield from _pieces(sentence, most)
        *whole, begun = _pieces(begun, most)
        yield from whole
    if begun:
        yield begun


def _pieces(sentence: str, most: int) -> list[str]:
    words = sentence.split()
    if len(words) <= most:
        return [sentence]
    return [" ".join(words[start : start + most]) for start in range(0, len(words), most)]


def _is_corpus(file: Path) -> bool:
    for _, line in read_lines(file, "text"):
        if line.strip():
            try:
                line_parser(line)
            except ValueError:
                return False
            return True
    return False


def _of_corpus(file: Path) -> Iterator[tuple[bool, str]]:
    last = ""
    for passage in read_corpus(file, unique=False):
        text = passage_text(passage, "title text")
        if text.strip():  # else there is nothing to learn from
            yield not last or passage.title != last, text
            last = passage.title


def _of_text(file: Path, words: int) -> Iterator[tuple[bool, str]]:
    lines = (line.strip() for _, line in read_lines(file, "text"))
    for line in lines:
        if line:
            first = True
            for passage in cut_document(chain([line], takewhile(bool, lines)), words):
                yield first, passage
                first = False
