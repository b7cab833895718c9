"""Files are read strictly, whatever their packing, and written whole or not at all."""

import gzip
import io
import os
import stat
import subprocess
import sys

import numpy as np
import pytest
from full_disk import small_files_only
from safetensors import SafetensorError
from safetensors.numpy import save_file

from qpeft_rerank.errors import FormatError, InputError
from qpeft_rerank.files import (
    atomic_write,
    is_regular_file,
    may_be_name,
    open_bytes,
    open_text,
    read_lines,
    replacing,
)

TEXT = "one\ntwo ’ ü\n"


def text_of(source):
    with open_text(source) as stream:
        return stream.read()


def test_plain_and_gzip_files_read_alike_whatever_their_name(tmp_path):
    for name, content in [
        ("plain.txt", TEXT.encode()),
        ("zipped.txt", gzip.compress(TEXT.encode())),
        ("plain.gz", TEXT.encode()),
        ("two-members.gz", gzip.compress(b"one\n") + gzip.compress(TEXT.encode()[4:])),
        ("mark.txt", b"\xef\xbb\xbf" + TEXT.encode()),
    ]:
        path = tmp_path / name
        path.write_bytes(content)
        assert text_of(path) == text_of(str(path)) == TEXT, name


def test_streams_of_the_caller_are_read_and_left_open(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text(TEXT, encoding="utf-8")
    with open(path, encoding="latin-1") as stream:  # the bytes count, not the stream's encoding
        assert text_of(stream) == TEXT
        assert not stream.closed
    binary = io.BytesIO(gzip.compress(TEXT.encode()))
    assert text_of(binary) == TEXT
    assert not binary.closed
    assert text_of(io.StringIO(TEXT)) == TEXT


def test_a_dash_is_stdin(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(TEXT.encode()))))
    assert text_of("-") == TEXT
    assert not sys.stdin.buffer.closed


def test_stdin_and_a_file_can_be_read_by_turns(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    path.write_text(TEXT, encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    pairs = list(zip(read_lines("-"), read_lines(path)))
    assert pairs == [((1, "one"), (1, "one")), ((2, "two ’ ü"), (2, "two ’ ü"))]


@pytest.mark.parametrize(
    "content, message",
    [
        (gzip.compress(os.urandom(5000))[:-20], "cut off"),
        (gzip.compress(os.urandom(5000))[:2000] + b"x" * 3000, "damaged|cut off"),
        (gzip.compress(b"one\n") + b"rubbish", "damaged"),
        (b"\x1f\x8b", "cut off"),
        (b"", "empty, not a gzip file"),
    ],
)
def test_a_damaged_gzip_file_is_one_error_that_names_it(tmp_path, content, message):
    path = tmp_path / "run.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"run\.gz: .*({message})"):
        with open_bytes(path) as stream:
            stream.read()


def test_a_path_that_cannot_be_read_says_why(tmp_path):
    for source, message in [
        (tmp_path / "none.txt", r"run file not found: .*none\.txt"),
        (tmp_path, "is a folder, not a run file"),
        (tmp_path / ("a" * 300), "cannot read run file"),
        ("a\0b", "cannot read run file"),
    ]:
        with pytest.raises(InputError, match=message):
            with open_bytes(source, "run file"):
                pass


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_an_error(tmp_path):
    path = tmp_path / "secret.txt"
    path.write_text("x")
    path.chmod(0)
    with pytest.raises(InputError, match="cannot read .*Permission denied"):
        text_of(path)


def test_a_byte_that_is_not_utf8_is_an_error_with_file_and_line(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("gut\nschön\n".encode("latin-1"))
    for read in (text_of, lambda source: list(read_lines(source))):
        with pytest.raises(FormatError, match=r"latin\.txt:2: not UTF-8") as caught:
            read(path)
        assert caught.value.line == 2
    with pytest.raises(FormatError, match="not UTF-8"):
        text_of(io.BytesIO(path.read_bytes()))


def test_lines_have_numbers_and_no_ends(tmp_path):
    path = tmp_path / "crlf.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\r\nthree \xe2\x80\xa8same line")
    assert list(read_lines(path)) == [(1, "one"), (2, ""), (3, "three \u2028same line")]


def test_names_of_collections_are_told_from_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").write_text("")
    assert may_be_name("dl19-passage") and may_be_name("beir-v1.0.0-scifact-test")
    for path in ("here", "topics.tsv", "folder/topics", "-", "", tmp_path / "x", io.StringIO()):
        assert not may_be_name(path)


def test_only_a_path_to_a_file_can_be_read_twice(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    assert is_regular_file(path) and is_regular_file(str(path))
    assert not any(map(is_regular_file, ["-", "/dev/null", tmp_path, tmp_path / "none", io.StringIO()]))


def test_a_written_file_is_utf8_with_unix_line_ends_and_the_usual_permissions(tmp_path):
    path = tmp_path / "out.txt"
    with atomic_write(path) as out:
        out.write(TEXT)
        assert not path.exists()
    assert path.read_bytes() == TEXT.encode()
    (tmp_path / "other").write_text("")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


def test_a_zipped_target_has_the_same_bytes_each_time(tmp_path):
    for name in ("a.gz", "b.gz"):
        with atomic_write(tmp_path / name) as out:
            out.write(TEXT)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert text_of(tmp_path / "a.gz") == TEXT


@pytest.mark.parametrize("name", ["out.txt", "out.gz"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_any_error_the_old_file_is_untouched_and_nothing_else_is_left(tmp_path, name, error):
    (tmp_path / name).write_text("old")
    with pytest.raises(error):
        with atomic_write(tmp_path / name) as out:
            out.write("new")
            raise error
    assert (tmp_path / name).read_text() == "old"
    assert os.listdir(tmp_path) == [name]


def test_a_target_that_cannot_be_written_says_why(tmp_path):
    for target, message in [(tmp_path, "is a folder"), (tmp_path / "no" / "run.txt", "no folder .*no")]:
        with pytest.raises(InputError, match=message):
            with atomic_write(target):
                pass
    with pytest.raises(InputError, match="surrogate"):
        with atomic_write(tmp_path / "out.txt") as out:
            out.write("\ud800")
    assert os.listdir(tmp_path) == []


def test_a_link_stays_a_link_and_a_device_stays_a_device(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    with atomic_write(tmp_path / "link") as out:
        out.write("new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "new"
    with atomic_write("/dev/null") as out:
        out.write("gone")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("name", ["run.txt", "run.gz", "/dev/full"])
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path, name):
    path = str(tmp_path / name)
    with small_files_only(), pytest.raises(OSError) as error, atomic_write(path) as out:
        for number in range(100_000):
            out.write(f"{number}\n")
    assert error.value.filename == path
    assert os.listdir(tmp_path) == []


def test_so_are_errors_of_a_library_that_writes(tmp_path):
    path = tmp_path / "weights.safetensors"
    with small_files_only(), pytest.raises(InputError, match=f"^{path}: cannot be written: .*too large"):
        with replacing(path, SafetensorError) as temporary:
            save_file({"a": np.zeros(100_000)}, temporary)
    with small_files_only(), pytest.raises(InputError, match=f"^{path}: cannot be written: .* written"):
        with replacing(path, OSError) as temporary, temporary.open("wb") as stream:
            np.save(stream, np.zeros(100_000))
    assert os.listdir(tmp_path) == []


def test_a_dash_is_stdout_in_utf8_whatever_the_locale():
    code = "from qpeft_rerank.files import atomic_write\nwith atomic_write('-') as out: out.write('ü ’\\n')"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert done.stdout == "ü ’\n".encode()


def test_an_open_stream_is_a_target():
    out = io.StringIO()
    with atomic_write(out) as target:
        target.write(TEXT)
    assert out.getvalue() == TEXT
