"""Whatever happens in a verb: one line on stderr, the right exit code, no traceback unless asked for."""

import errno
import io
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qpeft_rerank.cli.frame import guarded
from qpeft_rerank.errors import FormatError, QpeftError

HERE = Path(__file__).parents[2]


def outcome(capsys, action, **settings):
    code = guarded(action, "qpeft test", **settings)
    out, err = capsys.readouterr()
    assert out == ""
    return code, err


def raising(error):
    def action():
        raise error

    return action


@pytest.mark.parametrize(
    "error, code, line",
    [
        (QpeftError("no such thing"), 2, "qpeft test: error: no such thing\n"),
        (FormatError("a.run", 7, "five columns"), 2, "qpeft test: error: a.run:7: five columns\n"),
        (QpeftError("two\nlines"), 2, "qpeft test: error: two lines\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "qpeft test: error: No space left on device\n"),
        (
            PermissionError(errno.EACCES, "Permission denied", "out.txt"),
            2,
            "qpeft test: error: out.txt: Permission denied\n",
        ),
        (OSError("cannot be read"), 2, "qpeft test: error: cannot be read\n"),
        (io.UnsupportedOperation("not seekable"), 2, "qpeft test: error: not seekable\n"),
        (MemoryError(), 2, "qpeft test: error: out of memory\n"),
        (KeyboardInterrupt(), 130, "qpeft test: interrupted\n"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, ""),
        (
            KeyError("x"),
            1,
            "qpeft test: internal error: KeyError: 'x' (run again with --debug for the traceback)\n",
        ),
        (SystemExit(0), 0, ""),
    ],
)
def test_an_error_is_one_line_and_a_code(capsys, error, code, line):
    assert outcome(capsys, raising(error)) == (code, line)


def test_debug_shows_the_traceback_too(capsys):
    code, err = outcome(capsys, raising(QpeftError("no such thing")), debug=True)
    assert code == 2
    assert err.startswith("Traceback") and err.endswith("qpeft test: error: no such thing\n")


def test_log_lines_of_libraries_are_hidden_unless_asked_for(capsys):
    def action():
        logging.getLogger("a_library").warning("chatter")

    assert outcome(capsys, action) == (0, "")
    code, err = outcome(capsys, action, verbose=True)
    assert (code, err) == (0, "chatter\n")


def test_warnings_of_our_own_and_what_a_verb_says_are_shown(capsys):
    def action():
        logging.getLogger("qpeft_rerank.bm25").warning("3 passages have no text")
        logging.getLogger("qpeft_rerank.bm25").info("reading")
        logging.getLogger("qpeft_rerank.cli.index").info("8 passages")

    assert outcome(capsys, action) == (0, "qpeft test: 3 passages have no text\nqpeft test: 8 passages\n")


def test_what_the_frame_sets_is_set_back(capsys):
    handlers, terminate = list(logging.getLogger().handlers), signal.getsignal(signal.SIGTERM)
    outcome(capsys, raising(QpeftError("x")))
    assert list(logging.getLogger().handlers) == handlers
    assert logging.getLogger("qpeft_rerank").handlers == []
    assert signal.getsignal(signal.SIGTERM) == terminate


# ---- true processes ----

PROGRAM = """
import sys, time
from qpeft_rerank.cli.frame import guarded
def action():
    {body}
sys.exit(guarded(action, "qpeft test"))
"""


def start(body, **settings):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=body)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HERE)},
        **settings,
    )


def test_a_reader_that_goes_away_is_met_with_silence():
    program = start("[print('line', flush=True) for i in range(100_000)]", stdout=subprocess.PIPE)
    program.stdout.readline()
    program.stdout.close()
    assert program.stderr.read() == ""
    assert program.wait() == 141


def test_a_reader_that_goes_away_before_the_last_buffer_is_written_too():
    program = start("sys.stdin.read(); print('x' * 100)", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    program.stdout.close()
    program.stdin.close()
    assert program.stderr.read() == ""
    assert program.wait() == 141


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_within_one_large_write_too(monkeypatch, unbuffered):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    program = start("print('line\\n' * 1_000_000)", stdout=subprocess.PIPE)
    program.stdout.readline()
    program.stdout.close()
    assert program.stderr.read() == ""
    assert program.wait() == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("body", ["print('x')", "print('x' * 100_000)"])
def test_a_full_disk_under_stdout_is_one_line(body):
    with open("/dev/full", "w") as full:
        program = start(body, stdout=full)
        assert program.stderr.read().rstrip().endswith("No space left on device")
    assert program.wait() == 2


@pytest.mark.parametrize(
    "number, code, line",
    [
        (signal.SIGINT, 130, "qpeft test: interrupted\n"),
        (signal.SIGTERM, 143, "qpeft test: terminated\n"),
        (signal.SIGHUP, 129, "qpeft test: terminated\n"),
    ],
)
def test_signals_end_the_program_cleanly(tmp_path, number, code, line):
    body = f"""
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        open({str(tmp_path / "cleaned")!r}, "w").close()"""
    program = start(body.strip(), stdout=subprocess.PIPE)
    assert program.stdout.readline() == "ready\n"
    time.sleep(0.05)
    program.send_signal(number)
    assert program.stderr.read() == line
    assert program.wait() == code
    assert (tmp_path / "cleaned").exists()


def test_warnings_are_hidden():
    program = start("import warnings; warnings.warn('old')")
    assert program.stderr.read() == ""
    assert program.wait() == 0


def test_a_closed_stdout_is_one_line():
    script = PROGRAM.format(body="sys.stdout.write('the run')")
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" >&-', sys.executable, script],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HERE)},
        check=False,
    )
    assert (done.stderr, done.returncode) == ("qpeft test: error: standard output is closed\n", 2)


def test_a_closed_stderr_does_not_send_messages_into_the_run(tmp_path):
    script = PROGRAM.format(body="print('the run'); raise ValueError('wrong')")
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, script],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HERE)},
        check=False,
    )
    assert (done.stdout, done.returncode) == ("the run\n", 1)
