"""Passages by id from a corpus file, through an index of where each line begins; the text stays on disk.

The index is two sorted arrays, a 64-bit hash of each id and the place of its line: 16 bytes per passage, and
about 40 while it is built (0.8 GB for the 21 million passages of ``psgs_w100.tsv``). For a large corpus the
arrays are kept in the cache folder (``$XDG_CACHE_HOME/qpeft-rerank`` or ``~/.cache/qpeft-rerank``) and mapped
from there the next time. The id is compared again when a line is read, so that two ids with the same hash
cannot be mistaken for each other.

A gzipped file cannot be read from the middle: it is unpacked once, a large one into the cache folder.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qpeft_rerank.corpora import LineParser, Passage, corpus_files, line_parser
from qpeft_rerank.errors import FormatError, InputError
from qpeft_rerank.files import is_regular_file, open_bytes

if TYPE_CHECKING:
    import numpy as np

LARGE = (
    64 * 2**20
)  # bytes from which on arrays and unpacked files are kept: below, making them takes a second or two
OFFSET_BITS = 48  # a place is a file's number and an offset in it: 2^48 bytes are 280 TB, 2^16 files
LAYOUT = "offsets-1"  # part of a cached index's name; to be changed with the layout of the arrays

logger = logging.getLogger(__name__)


class CorpusFile:
    """The passages of a corpus file or folder (see :mod:`qpeft_rerank.corpora` for the forms), found by id.

    May be used from several threads.

    Raises :class:`InputError` for a path that cannot be read, :class:`FormatError` for a malformed line or an
    id that
    occurs twice: opening reads the whole corpus once, unless its index is in the cache.
    """

    def __init__(self, path: str | Path):
        self.name = str(path)
        self._sources = corpus_files(path)
        for source in self._sources:  # now: what comes from a pipe is gone after the first look
            if not is_regular_file(source):
                kind = "a pipe" if source.is_fifo() else "no regular file"
                raise InputError(
                    f"corpus {str(source)!r} is {kind}: it is read more than once, so it must be a file"
                )
        self.fingerprint = _fingerprint(self._sources)
        if len(self._sources) >= 1 << (64 - OFFSET_BITS):
            raise InputError(f"{path}: too many files ({len(self._sources)})")
        self._unpacked: tempfile.TemporaryDirectory[str] | None = None
        self._files = [self._seekable(source) for source in self._sources]
        self._parsers: list[LineParser | None] = []
        self._first_lines: list[int] = []
        for number in range(len(self._files)):
            parser, first = self._open(number)
            self._parsers.append(parser)
            self._first_lines.append(first)
        self._hashes, self._places = self._load_or_build()

    def __len__(self) -> int:
        return len(self._hashes)

    def get(self, docids: Sequence[str]) -> dict[str, Passage]:
        """The passages with these ids; an id that the corpus does not have is absent from the result."""
        import numpy as np

        wanted = list(dict.fromkeys(docids))
        hashes = np.array([_hash(docid) for docid in wanted], dtype=np.uint64)
        begins = np.searchsorted(self._hashes, hashes, side="left")
        ends = np.searchsorted(self._hashes, hashes, side="right")
        candidates = [
            (int(self._places[at]), docid)
            for docid, begin, end in zip(wanted, begins, ends, strict=True)
            for at in range(begin, end)
        ]
        found: dict[str, Passage] = {}
        by_file: dict[int, list[tuple[int, str]]] = {}
        for place, docid in sorted(candidates):  # in the order of the disk
            by_file.setdefault(place >> OFFSET_BITS, []).append((place & ((1 << OFFSET_BITS) - 1), docid))
        for number, places in by_file.items():
            with open(self._files[number], "rb") as handle:
                for offset, docid in places:
                    handle.seek(offset)
                    passage = self._parse(number, handle.readline(), offset)
                    if passage.docid == docid:
                        found[docid] = passage
        return {docid: found[docid] for docid in wanted if docid in found}

    # --- the files ---

    def _seekable(self, source: Path) -> Path:
        """The file itself, or its unpacked copy if it is gzipped."""
        try:
            with open(source, "rb") as handle:
                if handle.read(2) != b"\x1f\x8b":
                    return source
        except OSError as error:
            raise InputError(f"{source}: cannot be read: {error.strerror}") from error
        if source.stat().st_size < LARGE:
            if self._unpacked is None:
                self._unpacked = tempfile.TemporaryDirectory(prefix="qpeft-corpus-")
            target = Path(self._unpacked.name) / source.name
        else:
            target = _cache_folder() / f"{_fingerprint([source])}.txt"
            if target.exists():
                return target
        logger.info("unpacking %s to %s", source, target)
        partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
        try:
            with open_bytes(source, "corpus file") as packed, open(partial, "wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, 1 << 20)
            partial.replace(target)
        except OSError as error:
            raise InputError(f"{source}: cannot be unpacked to {target.parent}: {error.strerror}") from error
        finally:
            partial.unlink(missing_ok=True)
        return target

    def _open(self, number: int) -> tuple[LineParser | None, int]:
        """The parser of a file and the offset of its first passage; (None, 0) if it holds no line."""
        with open(self._files[number], "rb") as handle:
            offset = 0
            for line_number, raw in enumerate(handle, start=1):
                text = self._decode(number, raw, line_number).removeprefix("\ufeff")
                if text.strip():
                    try:
                        parser, is_header = line_parser(text)
                    except ValueError as error:
                        raise FormatError(self._sources[number], line_number, str(error)) from error
                    return parser, offset + len(raw) if is_header else offset
                offset += len(raw)
        return None, 0

    def _decode(self, number: int, raw: bytes, line_number: int | None) -> str:
        try:
            return raw.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise FormatError(
                self._sources[number], line_number, f"not UTF-8 text ({error.reason})"
            ) from None

    def _parse(self, number: int, raw: bytes, offset: int) -> Passage:
        parser = self._parsers[number]
        assert parser is not None, "only files with passages have places"
        try:
            return parser(raw.decode("utf-8").removeprefix("\ufeff").rstrip("\r\n"))
        except ValueError as error:  # also UnicodeDecodeError
            reason = (
                f"not UTF-8 text ({error.reason})" if isinstance(error, UnicodeDecodeError) else str(error)
            )
            raise FormatError(self._sources[number], self._line_at(number, offset), reason) from error

    def _line_at(self, number: int, offset: int) -> int:
        """The number of the line that begins at an offset, counted only when an error needs it."""
        with open(self._files[number], "rb") as handle:
            lines, left = 1, offset
            while left > 0 and (chunk := handle.read(min(left, 1 << 20))):
                lines += chunk.count(b"\n")
                left -= len(chunk)
        return lines

    # --- the index ---

    def _load_or_build(self) -> tuple[np.ndarray, np.ndarray]:
        import numpy as np

        size = sum(file.stat().st_size for file in self._files)
        cached = _cache_folder() / f"{self.fingerprint}.npy" if size >= LARGE else None
        if cached is not None and cached.exists():
            try:
                arrays = np.load(cached, mmap_mode="r", allow_pickle=False)
                return arrays[0], arrays[1]
            except (OSError, ValueError, IndexError):
                logger.warning("%s is damaged and will be made again", cached)
        arrays = self._build()
        if cached is not None:
            partial = cached.with_name(f"{cached.name}.{os.getpid()}.partial")
            try:
                with open(partial, "wb") as handle:
                    np.save(handle, arrays, allow_pickle=False)
                partial.replace(cached)
                arrays = np.load(cached, mmap_mode="r", allow_pickle=False)
            except OSError as error:  # a full or read-only cache costs time the next time, no more
                logger.warning(
                    "the index of %s cannot be kept in %s: %s", self.name, cached.parent, error.strerror
                )
            finally:
                partial.unlink(missing_ok=True)
        return arrays[0], arrays[1]

    def _build(self) -> np.ndarray:
        """Both arrays as one of shape (2, passages): hashes in rising order, and their places."""
        import numpy as np

        logger.info("finding the passages of %s", self.name)
        hashes, places = array("Q"), array("Q")
        for number, file in enumerate(self._files):
            offset = self._first_lines[number]
            with open(file, "rb") as handle:
                handle.seek(offset)
                for raw in handle:
                    if raw.strip():
                        hashes.append(_hash(self._parse(number, raw, offset).docid))
                        places.append(number << OFFSET_BITS | offset)
                    offset += len(raw)
        if not hashes:
            raise InputError(f"{self.name}: the corpus has no passage")
        result = np.empty((2, len(hashes)), dtype=np.uint64)
        unsorted = np.frombuffer(hashes, dtype=np.uint64)
        order = np.argsort(unsorted, kind="stable")
        np.take(unsorted, order, out=result[0])
        np.take(np.frombuffer(places, dtype=np.uint64), order, out=result[1])
        self._check_unique(result)
        return result

    def _check_unique(self, arrays: np.ndarray) -> None:
        import numpy as np

        for at in np.flatnonzero(arrays[0, 1:] == arrays[0, :-1]):
            (first, place), (second, again) = (
                self._read(int(arrays[1, at])),
                self._read(int(arrays[1, at + 1])),
            )
            if first == second:
                file, line = again
                raise FormatError(
                    file, line, f"passage id {first!r} occurs twice (first in {place[0]}:{place[1]})"
                )

    def _read(self, place: int) -> tuple[str, tuple[Path, int]]:
        """The id at a place, and the file and line of that place."""
        number, offset = place >> OFFSET_BITS, place & ((1 << OFFSET_BITS) - 1)
        with open(self._files[number], "rb") as handle:
            handle.seek(offset)
            passage = self._parse(number, handle.readline(), offset)
        return passage.docid, (self._sources[number], self._line_at(number, offset))


def _hash(docid: str) -> int:
    return int.from_bytes(hashlib.blake2b(docid.encode("utf-8"), digest_size=8).digest(), "little")


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(root) / "qpeft-rerank"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the cache folder {folder} cannot be made: {error.strerror} (set XDG_CACHE_HOME)"
        ) from error
    return folder


def _fingerprint(files: list[Path]) -> str:
    """A name that changes when a file does (path, size or time of its last change)."""
    facts = [LAYOUT]
    for file in files:
        status = file.stat()
        facts.append(f"{file.resolve()}\0{status.st_size}\0{status.st_mtime_ns}")
    return hashlib.sha256("\n".join(facts).encode("utf-8", "surrogateescape")).hexdigest()[:32]
