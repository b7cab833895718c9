"""Files, stdin and stdout as this package reads and writes them: UTF-8, gzip by content, atomic results.

Every way in which a file can be unreadable (missing, a folder, no permission, damaged gzip, not UTF-8)
becomes one :class:`~qpeft_rerank.errors.InputError` that names the file.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import secrets
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, TextIO

from qpeft_rerank.errors import FormatError, InputError, one_line

Source = str | Path | IO
"""A path, "-" for stdin, or an open file."""

BUFFER = 1 << 18
STDOUT = ("-", "/dev/stdout")  # names that mean standard output
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # errors of writing alone: disk full, quota, size limit
# The endings that a file of the field has: a missing file with one of them is not taken for a Pyserini name.
_FILE_ENDINGS = {".txt", ".tsv", ".csv", ".json", ".jsonl", ".gz", ".trec", ".qrels", ".qrel", ".xml"}


def source_name(source: Source) -> str:
    """How messages call a source: its path, ``<stdin>`` or ``<stream>``."""
    if isinstance(source, (str, Path)):
        return "<stdin>" if str(source) == "-" else str(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "<stream>"


def is_source(given: object) -> bool:
    """Whether this is a path or an open file, not what has been read from one."""
    return isinstance(given, (str, os.PathLike)) or callable(getattr(given, "read", None))


def start_of_message(given: Any) -> str:
    """The name of a file as the start of a message; nothing for what is in memory."""
    return f"{source_name(given)}: " if is_source(given) else ""


def read_if_source(given: Any, read: Callable[[Source], Any], kind: type, what: str) -> Any:
    """What a program gives for an argument: a file, which is read, or what it would give, of this kind.

    InputError for anything else.
    """
    if is_source(given):
        return read(given)
    if not isinstance(given, kind):
        raise InputError(f"{what}: expected a file or a {kind.__name__}, found {type(given).__name__}")
    return given


def is_regular_file(source: Source) -> bool:
    """Whether the source is a path that can be read twice (not a pipe, a device or an open stream)."""
    return isinstance(source, (str, Path)) and str(source) != "-" and os.path.isfile(source)


def is_same_file(source: Any, path: Path) -> bool:
    """Whether the source is a path to the file that is at ``path``."""
    return is_regular_file(source) and path.is_file() and path.samefile(source)


def check_output(output: str | Path, *inputs: Any) -> None:
    """Say now, not after hours of work, that a file cannot be written there, or would replace an input.

    Of ``inputs`` only what is a path counts. Raises `InputError`.
    """
    path, folder = Path(output), Path(output).parent
    if str(output) in STDOUT or path.exists() and not path.is_file() and not path.is_dir():
        return  # stdout, a device or a pipe
    for source in inputs:
        if is_same_file(source, path):
            raise InputError(f"{output}: is the input {source}: write to another file")
    if not folder.is_dir():
        raise InputError(f"{output}: there is no folder {folder}")
    if path.is_dir():
        raise InputError(f"{output}: is a folder, not a file to write")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{output}: no permission to write in {folder}")


def content_sha256(source: Source) -> str | None:
    """The hash of a file's bytes, unzipped if it is zipped; None for what cannot be read twice."""
    if not is_regular_file(source):
        return None
    with open_bytes(source) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def may_be_name(source: Source) -> bool:
    """Whether a source that is no file may name a known collection: ``dl19-passage``, not ``dl19/q.tsv``."""
    if not isinstance(source, str) or source in ("", "-") or os.path.exists(source):
        return False
    return os.sep not in source and os.path.splitext(source)[1].lower() not in _FILE_ENDINGS


@contextmanager
def open_bytes(source: Source, what: str = "file") -> Iterator[io.BufferedReader]:
    """Open a source for reading bytes, unzipped if it starts as gzip does; ``what`` is its kind in messages.

    Files are closed at the end; stdin and streams given by the caller stay open. Unzipped sources cannot
    seek.
    """
    name = source_name(source)
    with _opened(source, name, what) as stream:
        head = stream.peek(2)[:2]
        if head == b"\x1f\x8b":
            yield io.BufferedReader(_Unzipped(stream, name), BUFFER)
        elif not head and name.endswith(".gz"):
            raise InputError(f"{name}: is empty, not a gzip file")
        else:
            yield stream


@contextmanager
def open_text(source: Source, what: str = "file") -> Iterator[TextIO]:
    """Open a source for reading text: strict UTF-8, with or without a byte order mark, gzip or not.

    Lines end at ``\\n`` only and keep their ``\\r``. Bytes that are not UTF-8 raise a FormatError with the
    line when the source is a file.
    """
    with open_bytes(source, what) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="\n")
        try:
            yield text
        except UnicodeDecodeError as error:
            if is_regular_file(source):
                for _ in read_lines(source, what):  # a second look finds the line and raises
                    pass
            raise FormatError(source_name(source), None, f"not UTF-8 text ({error.reason})") from None
        finally:
            text.detach()


def read_lines(source: Source, what: str = "file") -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its end) of a UTF-8 text; FormatError for a bad byte."""
    with open_bytes(source, what) as stream:
        for number, line in enumerate(stream, 1):
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise FormatError(source_name(source), number, f"not UTF-8 text ({error.reason})") from None
            if number == 1:
                text = text.removeprefix("\ufeff")
            yield number, text.rstrip("\r\n")


@contextmanager
def atomic_write(target: str | Path | TextIO) -> Iterator[TextIO]:
    """Open a target for writing UTF-8 text with ``\\n`` line ends; the final name appears when all is there.

    "-" and "/dev/stdout" are stdout, and an open stream is used as it is. A path gets a temporary file in its
    folder, which is synced and renamed at the end and removed on any error. A name that ends in ``.gz`` is
    zipped without a time stamp, so that the same text gives the same bytes. Devices and pipes are written
    directly.
    """
    if not isinstance(target, (str, Path)):
        yield target
        target.flush()
    elif str(target) in STDOUT:
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(encoding="utf-8", newline="\n")
        with writing("standard output"):
            yield sys.stdout
            sys.stdout.flush()
    elif os.path.isdir(target):
        raise InputError(f"cannot write {target}: it is a folder")
    elif os.path.exists(target) and not os.path.isfile(target):
        with writing(str(target)), open(target, "w", encoding="utf-8", newline="\n") as device:
            yield device
    else:
        # A link stays a link: what it points to is replaced.
        path = Path(os.path.realpath(target))
        if not path.parent.is_dir():
            raise InputError(f"cannot write {target}: there is no folder {path.parent}")
        with writing(str(target)):
            yield from _replace(path, zipped=str(target).endswith(".gz"))


@contextmanager
def writing(name: str, *errors: type[Exception]) -> Iterator[None]:
    """Within, what is written goes to ``name``, and errors say so: the system's own do not.

    A full disk's OSError gets the name; text that is not Unicode is an `InputError`, and so are ``errors``:
    those of a library that writes, where nothing else is at work within.
    """
    try:
        yield
    except UnicodeEncodeError as error:
        bad = error.object[error.start : error.start + 1]
        raise InputError(f"{name}: {bad!r} cannot be written as UTF-8 (half of a surrogate pair)") from None
    except errors as error:
        raise InputError(f"{name}: cannot be written: {one_line(error)}") from error
    except OSError as error:
        if error.errno in _FULL and error.filename is None:
            error.filename = name
        raise


@contextmanager
def replacing(path: Path, *errors: type[Exception]) -> Iterator[Path]:
    """A temporary path beside ``path``, for a library to write; it takes its place when the block ends well
    and goes when not.

    ``errors`` are those that the library raises where it cannot write (`writing`).
    """
    with writing(str(path), *errors), _replacing(path) as temporary:
        yield temporary


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    # Not tempfile: its files are private (mode 0600), ours follow the user's umask like any other file.
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # some libraries write private files
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _replace(path: Path, zipped: bool) -> Iterator[TextIO]:
    with _replacing(path) as temporary, open(temporary, "wb", buffering=BUFFER) as raw:
        if zipped:
            packed = gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0)
            with packed, io.BufferedWriter(packed, BUFFER) as wide:
                with io.TextIOWrapper(wide, encoding="utf-8", newline="\n") as text:
                    yield text
        else:
            text = io.TextIOWrapper(raw, encoding="utf-8", newline="\n")
            yield text
            text.flush()
            text.detach()
        raw.flush()
        os.fsync(raw.fileno())


@contextmanager
def _opened(source: Source, name: str, what: str) -> Iterator[io.BufferedReader]:
    if isinstance(source, (str, Path)) and str(source) != "-":
        try:
            stream = open(source, "rb", buffering=BUFFER)
        except FileNotFoundError:
            raise InputError(f"{what} not found: {name}") from None
        except IsADirectoryError:
            raise InputError(f"{name} is a folder, not a {what}") from None
        except (OSError, ValueError) as error:  # ValueError: a name with a NUL character
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"cannot read {what} {name!r}: {reason}") from None
        with stream:
            yield stream
        return
    stream = sys.stdin if isinstance(source, (str, Path)) else source
    if stream is None:
        raise InputError(f"cannot read {what}: there is no stdin")
    binary = _binary(stream)
    if hasattr(binary, "peek"):
        yield binary
    else:
        reader = io.BufferedReader(binary, BUFFER)
        try:
            yield reader
        finally:
            reader.detach()


def _binary(stream: IO) -> BinaryIO:
    if hasattr(stream, "buffer"):
        return stream.buffer
    if isinstance(stream, io.TextIOBase):  # for example a StringIO: all in memory already
        return io.BytesIO(stream.read().encode("utf-8"))
    return stream


class _Unzipped(io.RawIOBase):
    """The unzipped bytes of a gzip stream; damage is an InputError that names the source."""

    def __init__(self, stream: BinaryIO, name: str):
        self._stream, self._name = gzip.GzipFile(fileobj=stream, mode="rb"), name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        try:
            # read1 gives what is there: a zipped pipe flows as it comes.
            data = self._stream.read1(len(buffer))
        except EOFError:
            raise InputError(f"{self._name}: the gzip file is cut off") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"{self._name}: the gzip file is damaged ({error})") from None
        buffer[: len(data)] = data
        return len(data)
