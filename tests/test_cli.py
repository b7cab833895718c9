"""The command line as its users meet it:
verbs, exit codes, one line for each kind of bad input, no half-written file.
"""

import gzip
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qpeft_rerank.cli.__main__ import VERBS, main
from qpeft_rerank.version import __version__

HERE = Path(__file__).parents[1]
RUN = "1 Q0 a 1 2.0 first\n1 Q0 b 2 1.0 first\n2 Q0 c 1 1.0 first\n"
OTHER = "1 Q0 b 1 2.0 other\n1 Q0 a 2 1.0 other\n2 Q0 c 1 1.0 other\n"
QRELS = "1 0 b 1\n2 0 c 1\n3 0 d 1\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a run, another, qrels and a collection file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.txt").write_text(RUN)
    (tmp_path / "other.txt").write_text(OTHER)
    (tmp_path / "qrels.txt").write_text(QRELS)
    (tmp_path / "small.toml").write_text('[qrels]\ntest = "qrels.txt"\ndev = "dev.txt"\n')
    return tmp_path


def program(*arguments, **settings):
    """Start a true process."""
    return subprocess.Popen(
        [sys.executable, "-m", "qpeft_rerank", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HERE)},
        **settings,
    )


def lines(text):
    return text.splitlines()


# ---- finding the way ----


def test_help_names_every_verb(capsys):
    assert main(["--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert all(f"\n  {verb} " in out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_help_with_an_example(capsys, verb):
    assert main([verb, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f"usage: qpeft {verb}" in out
    assert "example:\n  qpeft " + verb in out or "forms:" in out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"qpeft {__version__}\n"


@pytest.mark.parametrize(
    "arguments, line",
    [
        (
            [],
            f"qpeft: error: name a verb: {', '.join(VERBS)} (see qpeft --help)",
        ),
        (
            ["rernk"],
            "qpeft: error: there is no verb 'rernk' (did you mean rerank?); there are " + ", ".join(VERBS),
        ),
        (["--versoin"], "qpeft: error: unrecognized argument: --versoin (did you mean --version?)"),
        (
            ["evaluate", "--qrel", "x"],
            "qpeft evaluate: error: unrecognized argument: --qrel (did you mean --qrels?)",
        ),
        (["bm25", "--hits"], "qpeft bm25: error: argument --hits: expected one argument"),
        (
            ["bm25", "--hits", "0"],
            "qpeft bm25: error: argument --hits: 0 is below 1, the least that is possible",
        ),
        (["bm25", "--hits", "ten"], "qpeft bm25: error: argument --hits: 'ten' is not a whole number"),
        (
            ["bm25", "--k1", "-1"],
            "qpeft bm25: error: argument --k1: -1 is below 0, the least that is possible",
        ),
        (
            ["bm25", "--b", "1.5"],
            "qpeft bm25: error: argument --b: 1.5 is above 1, the most that is possible",
        ),
        (["bm25", "--b", "nan"], "qpeft bm25: error: argument --b: nan is not a finite number"),
        (
            ["index", "--threads", "0"],
            "qpeft index: error: argument --threads: 0 is below 1, the least that is possible",
        ),
        (
            ["index"],
            "qpeft index: error: no corpus given: name it with --corpus, or a collection file with -c",
        ),
        (["bm25"], "qpeft bm25: error: no index given: name it with --index, or a collection file with -c"),
        (
            ["bm25", "--index", "x"],
            "qpeft bm25: error: no topics given: name them with --topics, or a collection file with -c",
        ),
        (
            ["rerank", "--runtag", "a b"],
            "qpeft rerank: error: --runtag: 'a b' has white space: it is one column of the run",
        ),
        (
            ["bm25", "--split", "dev"],
            "qpeft bm25: error: --split needs -c/--collection: it names a split of a collection file",
        ),
        (
            ["evaluate", "x"],
            "qpeft evaluate: error: no qrels given: name them with --qrels, or a collection file with -c",
        ),
        (
            ["evaluate", "--format", "xml"],
            "qpeft evaluate: error: argument --format: 'xml' is not one of text, tsv, json, latex",
        ),
    ],
)
def test_a_wrong_command_line_is_one_line_and_code_2(capsys, arguments, line):
    assert main(arguments) == 2
    assert capsys.readouterr() == ("", line + "\n")


def test_nothing_heavy_is_imported_for_help_or_evaluate(folder):
    script = (
        "import sys\nfrom qpeft_rerank.cli.__main__ import main\ncode = main(sys.argv[1:])\n"
        "heavy = {'torch', 'transformers', 'pyserini', 'jnius', 'matplotlib'}\n"
        "print(*sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    for arguments in (
        ["--help"],
        *([verb, "--help"] for verb in VERBS),
        ["evaluate", "--qrels", "qrels.txt", "run.txt"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(HERE)},
        )
        assert done.stderr.split() == [], arguments


# ---- evaluate ----


def test_evaluate_counts_every_judged_topic(folder, capsys):
    assert main(["evaluate", "--qrels", "qrels.txt", "-m", "RR@10", "--format", "tsv", "run.txt"]) == 0
    assert "run\tRR@10\tall\t0.500000\n" in capsys.readouterr().out


def test_evaluate_skips_the_records_beside_runs(folder, capsys):
    (folder / "run.txt.json").write_text("{}")
    command = ["evaluate", "--qrels", "qrels.txt", "-m", "RR@10", "--format", "tsv"]
    assert main([*command, "run.txt", "run.txt.json"]) == 0
    assert lines(capsys.readouterr().out)[-1] == "run\tRR@10\tall\t0.500000"
    assert main([*command, "run.txt.json"]) == 2  # alone, it was meant
    assert "run.txt.json:1" in capsys.readouterr().err


def test_evaluate_takes_runs_and_flags_in_any_order(folder, capsys):
    assert main(["evaluate", "run.txt", "--qrels", "qrels.txt", "other.txt", "-m", "RR@10", "-q"]) == 0
    out = capsys.readouterr().out
    assert "run" in out and "other" in out and "difference" in out


def test_evaluate_reads_a_run_from_stdin_and_qrels_from_the_collection(folder, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(RUN.encode())))
    assert main(["evaluate", "-c", "small.toml", "-m", "RR@10", "--format", "tsv"]) == 0
    assert "stdin\tRR@10\tall\t0.500000\n" in capsys.readouterr().out


def test_evaluate_writes_table_and_pictures_to_files(folder, capsys):
    pytest.importorskip("matplotlib")
    (folder / "third.txt").write_text(RUN)
    assert (
        main(
            [
                "evaluate",
                "--qrels",
                "qrels.txt",
                "--format",
                "json",
                "--output",
                "table.json",
                "--plot",
                "topics.png",
                "run.txt",
                "other.txt",
                "third.txt",
            ]
        )
        == 0
    )
    assert capsys.readouterr().out == ""
    assert (folder / "table.json").read_text().startswith("{")
    assert {p.name for p in folder.glob("*.png")} == {"topics.other.png", "topics.third.png"}


# ---- bad input ----


def bad_files(folder):
    (folder / "five.txt").write_text("1 Q0 a 1 2.0\n")
    (folder / "word.txt").write_text("1 Q0 a 1 high tag\n")
    (folder / "twice.txt").write_text("1 Q0 a 1 2 t\n1 Q0 a 2 1 t\n")
    (folder / "empty.txt").write_text("")
    (folder / "latin.txt").write_bytes("1 Q0 caf\xe9 1 2.0 t\n".encode("latin-1"))
    (folder / "cut.txt.gz").write_bytes(gzip.compress(os.urandom(100).hex().encode() * 10)[:-30])
    (folder / "folder").mkdir()
    return folder


@pytest.mark.parametrize(
    "run, word",
    [
        ("five.txt", "five.txt:1"),
        ("word.txt", "word.txt:1"),
        ("twice.txt", "twice.txt:2"),
        ("empty.txt", "empty"),
        ("latin.txt", "latin.txt:1"),
        ("cut.txt.gz", "cut.txt.gz"),
        ("folder", "folder"),
        ("no.txt", "no.txt"),
    ],
)
def test_a_bad_run_is_one_line_that_names_it_and_leaves_no_table(folder, capsys, run, word):
    bad_files(folder)
    before = sorted(folder.iterdir())
    assert main(["evaluate", "--qrels", "qrels.txt", "--output", "table.txt", run]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(lines(err)) == 1 and err.startswith("qpeft evaluate: error: ") and word in err
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["--qrels", "no.txt"], "no.txt"),
        (["--qrels", "folder"], "folder"),
        (["--qrels", "empty.txt"], "empty"),
        (["--qrels", "five.txt"], "five.txt:1"),
        (["--qrels", "qrels.txt", "-m", "nDGC@10"], "nDGC@10"),
        (["--qrels", "qrels.txt", "-m", "AP", "RR@10"], "RR@10 is a measure: give it as -m RR@10"),
        (["--qrels", "qrels.txt", "--output", "nowhere/table.txt"], "nowhere"),
        (["--qrels", "qrels.txt", "--output", "folder"], "folder"),
        (["--qrels", "qrels.txt", "--plot", "a.png"], "--plot needs two runs"),
        (["--qrels", "qrels.txt", "-", "-"], "stdin"),
        (["-c", "no.toml"], "no.toml"),
        (["-c", "small.toml", "--split", "train"], "there are test, dev"),
        (["-c", "small.toml", "--split", "dev"], "dev.txt"),
    ],
)
def test_other_bad_input_is_one_line_too(folder, capsys, arguments, word):
    bad_files(folder)
    before = sorted(folder.iterdir())
    assert main(["evaluate", *arguments, "run.txt"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(lines(err)) == 1 and word in err
    assert sorted(folder.iterdir()) == before


def test_a_terminal_instead_of_a_run_is_an_error_and_no_hang(folder, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert main(["evaluate", "--qrels", "qrels.txt"]) == 2
    assert "no run given" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_one_line(folder, capsys):
    (folder / "run.txt").chmod(0)
    assert main(["evaluate", "--qrels", "qrels.txt", "run.txt"]) == 2
    assert "Permission denied" in capsys.readouterr().err


def test_debug_anywhere_shows_the_traceback(folder, capsys):
    for arguments in (
        ["--debug", "evaluate", "--qrels", "no.txt", "x"],
        ["evaluate", "--qrels", "no.txt", "--debug", "x"],
    ):
        assert main(arguments) == 2
        assert "Traceback" in capsys.readouterr().err


# ---- true processes ----


def test_a_pipe_that_closes_early_is_met_with_silence(folder):
    (folder / "long.txt").write_text("".join(f"{i} 0 d 1\n" for i in range(20_000)))
    (folder / "long-run.txt").write_text("".join(f"{i} Q0 d 1 1 t\n" for i in range(20_000)))
    evaluate = program(
        "evaluate", "--qrels", "long.txt", "-q", "--format", "tsv", "long-run.txt", stdout=subprocess.PIPE
    )
    assert evaluate.stdout.readline() == "run\tmeasure\ttopic\tvalue\n"
    evaluate.stdout.close()
    assert evaluate.stderr.read() == ""
    assert evaluate.wait() == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_one_line(folder):
    for arguments, name in (
        (["--help"], "standard output"),
        (["evaluate", "--qrels", "qrels.txt", "run.txt"], "standard output"),
        (["evaluate", "--qrels", "qrels.txt", "--output", "/dev/full", "run.txt"], "/dev/full"),
    ):
        with open("/dev/full", "w") as full:
            done = program(*arguments, stdout=full)
            err = done.stderr.read()
        assert len(lines(err)) == 1 and err.endswith(f"error: {name}: No space left on device\n")
        assert done.wait() == 2


def test_ctrl_c_ends_with_one_line_and_no_file(folder):
    evaluate = program("evaluate", "--qrels", "qrels.txt", "--output", "table.txt", stdin=subprocess.PIPE)
    evaluate.stdin.write(RUN)
    evaluate.stdin.flush()
    before = {"run.txt", "other.txt", "qrels.txt", "small.toml"}
    deadline = time.monotonic() + 30
    while {p.name for p in folder.iterdir()} == before and time.monotonic() < deadline:
        time.sleep(0.02)  # the temporary file says that reading has begun
    evaluate.send_signal(signal.SIGINT)
    assert evaluate.stderr.read() == "qpeft evaluate: interrupted\n"
    assert evaluate.wait() == 130
    assert {p.name for p in folder.iterdir()} == before
    evaluate.stdin.close()
