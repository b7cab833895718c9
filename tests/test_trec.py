"""Runs are read strictly, topic by topic."""

import gzip
import io
import os
import random
import sys
import threading
import tracemalloc

import pytest

from qpeft_rerank import columns, run_topics, trec
from qpeft_rerank.errors import FormatError, InputError
from qpeft_rerank.trec import Ranking, ScoredDoc, load_run, read_run, read_scores

RUN = """\
007 Q0 d1 1 3.5 tag
007 Q0 d2 2 -1e-3 tag
q2 Q0 ü’ 1 7 tag
"""
RANKINGS = [
    Ranking("007", [ScoredDoc("d1", 3.5), ScoredDoc("d2", -0.001)]),
    Ranking("q2", [ScoredDoc("ü’", 7.0)]),
]


def rankings_of(text):
    return list(read_run(io.BytesIO(text.encode())))


def docids_of(text):
    return {qid: [doc.docid for doc in docs] for qid, docs in rankings_of(text)}


def file_of(tmp_path, text, name="run.txt"):
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


# Reading runs


def test_a_run_is_rankings_of_scored_docs():
    assert rankings_of(RUN) == RANKINGS
    assert isinstance(rankings_of(RUN)[0].docs[0], ScoredDoc)
    assert isinstance(rankings_of(RUN)[0].docs[0].score, float)


@pytest.mark.parametrize(
    "text",
    [
        RUN.replace(" ", "\t"),
        RUN.replace(" ", " \t  "),
        RUN.replace("\n", "\r\n"),
        RUN.replace("\n", "\n\n \r\n"),
        "\n\n" + RUN,
        "  " + RUN.replace("\n", "  \n"),
        RUN.rstrip("\n"),
        "\ufeff" + RUN,
        RUN.replace(" 1 ", " 0 ").replace(" 2 ", " 1 "),
        RUN.replace("Q0", "0").replace("tag", "Q0"),
        "".join(RUN.splitlines(keepends=True)[n] for n in (1, 0, 2)),
        "".join(RUN.splitlines(keepends=True)[n] for n in (0, 2, 1)),
    ],
)
def test_every_layout_in_use_reads_alike(tmp_path, text):
    for source in (file_of(tmp_path, text), str(file_of(tmp_path, text))):
        assert list(read_run(source)) == RANKINGS
    (tmp_path / "run.gz").write_bytes(gzip.compress(text.encode()))
    assert list(read_run(tmp_path / "run.gz")) == RANKINGS
    assert {r.qid: r for r in RANKINGS} == load_run(tmp_path / "run.gz") == load_run(io.StringIO(text))
    assert [(qid, dict(docs)) for qid, docs in RANKINGS] == list(read_scores(tmp_path / "run.txt"))


@pytest.mark.parametrize(
    "text",
    [
        "7\tb\t1\n7\ta\t2\n007\tb\t4\n007\tc\t3\n",
        "\n7 a 2\r\n007\t c 3.0\r\n7 b 01\r\n\r\n007 b 4",  # read line by line
    ],
)
def test_a_run_of_ms_marco_has_scores_made_of_its_ranks(tmp_path, text):
    expected = {
        "7": Ranking("7", [ScoredDoc("b", 1.0), ScoredDoc("a", 1 / 2)]),
        "007": Ranking("007", [ScoredDoc("c", 1 / 3), ScoredDoc("b", 1 / 4)]),
    }
    path = file_of(tmp_path, text)
    assert {ranking.qid: ranking for ranking in read_run(path)} == expected == load_run(path)
    assert {qid: dict(docs) for qid, docs in expected.values()} == dict(read_scores(path))


@pytest.mark.parametrize(
    "text, message",
    [
        ("1 a 1\n1 Q0 b 2 1.0 t\n", "expected 3 columns (qid docid rank), found 6"),
        ("1 Q0 a 1 1.0 t\n1 b 2\n", "expected 6 columns (qid Q0 docid rank score tag), found 3"),
        ("1 a 1\n1 b 0\n", "the rank '0' is not a whole number from 1"),
        ("1 a 1\n1 b 12.5\n", "the rank '12.5' is not"),
        ("1 a 1\n1 b -2\n", "the rank '-2' is not"),
        ("1 a 1\n1 b last\n", "the rank 'last' is not"),
        ("1 a 1\n1 a 2\n", "topic '1' has document 'a' twice"),
    ],
)
def test_forms_of_runs_are_not_mixed_and_ranks_are_ranks(tmp_path, text, message):
    path = file_of(tmp_path, text)
    for read in (read_run, load_run, read_scores):
        with pytest.raises(FormatError) as caught:
            list(read(path))
        assert str(caught.value).startswith(f"{path}:2: ") and message in str(caught.value)


def test_documents_are_sorted_by_float32_score_then_docid_downwards():
    # 1.00000001 and 1 are one float32 number; U+FFFF comes after U+FFFE also as UTF-8, unlike as UTF-16.
    text = "q Q0 b 1 1.00000001 t\nq Q0 c 2 1 t\nq Q0 \U0001f600 3 1 t\nq Q0 \uffee 4 1 t\nq Q0 a 9 2e0 t\n"
    assert docids_of(text) == {"q": ["a", "\U0001f600", "\uffee", "c", "b"]}


def test_ids_stay_strings_and_may_have_any_character_but_ascii_white_space():
    text = "007 Q0 0x1 1 1 t\n7 Q0 a\u00a0b\u3000\x1f\x85 1 1 t\n"
    assert docids_of(text) == {"007": ["0x1"], "7": ["a\u00a0b\u3000\x1f\x85"]}


def test_lines_in_any_order_are_gathered_by_topic(tmp_path):
    lines = [f"q{n % 7} Q0 d{n} 1 {-n} t\n" for n in range(500)]
    random.Random(1).shuffle(lines)
    text = "".join(lines)
    qids = dict.fromkeys(line.split()[0] for line in lines)
    expected = {qid: [f"d{n}" for n in range(500) if f"q{n % 7}" == qid] for qid in qids}
    (tmp_path / "run.gz").write_bytes(gzip.compress(text.encode()))
    for path in (file_of(tmp_path, text), file_of(tmp_path, text[:-1]), tmp_path / "run.gz"):
        assert {qid: [doc.docid for doc in docs] for qid, docs in read_run(path)} == expected
        assert [qid for qid, _ in read_scores(path)] == list(expected)
    loaded = load_run(io.StringIO(text))
    assert {qid: [doc.docid for doc in loaded[qid].docs] for qid in loaded} == expected


def test_a_topic_that_returns_in_a_stream_is_an_error_that_says_what_to_do():
    rankings = read_run(io.StringIO("q1 Q0 a 1 1 t\nq2 Q0 a 1 1 t\nq1 Q0 b 1 1 t\n"))
    assert [next(rankings).qid, next(rankings).qid] == ["q1", "q2"]
    with pytest.raises(FormatError, match="<stream>:3: topic 'q1' returns .*sort the run by topic or pass"):
        next(rankings)


MALFORMED = [
    ("q Q0 d3 3 1\n", "expected 6 columns (qid Q0 docid rank score tag), found 5"),
    ("q Q0 d3 3 1 t t\n", "found 7"),
    ("q d3 1\n", "found 3"),
    ("garbage\n", "found 1"),
    ("q Q0 d3 3 1\nq q Q0 d4 4 1 t\n", "found 5"),
    ("q Q0 d3 3 nan t\n", "the score 'nan' is not a finite float32 number"),
    ("q Q0 d3 3 -inf t\n", "'-inf' is not a finite"),
    ("q Q0 d3 3 1e39 t\n", "'1e39' is not a finite"),
    ("q Q0 d3 3 1e999 t\n", "'1e999' is not a finite"),
    ("q Q0 d3 3 high t\n", "the score 'high' is not a number"),
    ("q Q0 d3 3 1_000 t\n", "'1_000' is not a number"),
    ("q Q0 d3 3 1,5 t\n", "'1,5' is not a number"),
    ("q Q0 d3 3 - t\n", "'-' is not a number"),
    ("q Q0 d3 3 . t\n", "'.' is not a number"),
    ("q Q0 d3 3 --1 t\n", "'--1' is not a number"),
    ("q Q0 d3 3 1.2.3 t\n", "'1.2.3' is not a number"),
    ("q Q0 d3 3 1-2 t\n", "'1-2' is not a number"),
    ("q Q0 d3 3 ١ t\n", "'١' is not a number"),
    ("q Q0 d1 3 1 t\n", "topic 'q' has document 'd1' twice"),
    ("q Q0 d\0 3 1 t\n", "NUL"),
]


@pytest.mark.parametrize("wrong, message", MALFORMED)
@pytest.mark.parametrize("good", ["q Q0 d1 1 2 t\nq Q0 d2 2 1 t\n", "\nq\tQ0  d1 1 2 t\r\n"])
def test_a_malformed_line_is_an_error_with_file_and_line(tmp_path, good, wrong, message):
    path = file_of(tmp_path, good + wrong + "q Q0 d9 9 1 t\n")
    for read in (read_run, load_run, read_scores):
        with pytest.raises(FormatError) as caught:
            list(read(path))
        assert str(caught.value).startswith(f"{path}:3: ") and message in str(caught.value)


def test_errors_have_the_right_line_in_large_files_and_scattered_topics(tmp_path):
    lines = [f"q{n // 100} Q0 d{n} 1 -{n} t\n" for n in range(20_000)]
    for order in (lines, lines[::2] + lines[1::2]):
        for at in (0, 1, 9_999, 19_999):
            for wrong in ("q x\n", order[at].replace(" -", " x"), order[at][:-3] + "\xff\n"):
                text = "".join([*order[:at], wrong, *order[at + 1 :]])
                path = tmp_path / "run.txt"
                path.write_bytes(text.encode("latin-1"))
                with pytest.raises(FormatError) as caught:
                    list(read_run(path))
                assert caught.value.line == at + 1
    repeated = [*lines[::2], lines[400], *lines[1::2]]
    with pytest.raises(FormatError, match=":10001: topic 'q4' has document 'd400' twice"):
        list(read_run(file_of(tmp_path, "".join(repeated))))


def test_messages_name_stdin(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"q Q0 d 1 x t\n")))
    with pytest.raises(FormatError, match="<stdin>:1: the score 'x'"):
        list(read_run("-"))


def test_a_run_that_cannot_be_read_is_one_clear_error(tmp_path):
    (tmp_path / "cut.gz").write_bytes(gzip.compress(RUN.encode() * 99)[:-9])
    (tmp_path / "empty.gz").write_bytes(b"")
    (tmp_path / "junk.bin").write_bytes(bytes(range(256)) * 99)
    (tmp_path / "long.txt").write_bytes(b"x" * 3_000_000)
    for name, message in [
        ("none.txt", "run file not found: "),
        (".", "is a folder, not a run file"),
        ("cut.gz", "cut.gz: the gzip file is cut off"),
        ("empty.gz", "empty.gz: is empty, not a gzip file"),
        ("junk.bin", "junk.bin:1: a NUL byte"),
        ("long.txt", "long.txt:1: a line of more than 1 MB"),
    ]:
        for read in (read_run, load_run, read_scores):
            with pytest.raises(InputError, match=message):
                list(read(tmp_path / name))


def test_an_empty_run_has_no_rankings(tmp_path):
    for content in (b"", b"\n \n", gzip.compress(b"")):
        (tmp_path / "run.txt").write_bytes(content)
        assert list(read_run(tmp_path / "run.txt")) == [] and load_run(tmp_path / "run.txt") == {}


def test_the_fast_way_and_the_line_by_line_way_agree(monkeypatch):
    rng = random.Random(2)
    forms = "{:.6f} {:.0f} {:e} {!r} {:.15f} {:.20f} {:.3g} {:+.2f} {:010.4f} 0{:.1f}".split()
    lines, n = [], 0
    for topic in range(60):
        for _ in range(rng.choice([1, 2, 7, 150])):
            n += 1
            form = rng.choice(forms if topic % 2 else forms[:1])
            score = form.format(rng.uniform(-50, 50) * 10 ** rng.randint(-6, 3)).replace("0-", "-0")
            ids = f"{'q' * rng.randint(1, 9)}-{topic // 2} Q0 ü{n}" if topic % 2 else f"q{topic} Q0 d{n}"
            lines.append(f"{ids} {n} {score} tag\n")
    text = "".join(lines)
    fast = load_run(io.StringIO(text))
    monkeypatch.setattr(trec, "parse_block", lambda block, *form: None)
    assert load_run(io.StringIO(text)) == fast
    for size in (100, 1000, 4096):  # blocks end anywhere
        monkeypatch.undo()
        monkeypatch.setattr(columns, "BUFFER", size)
        assert load_run(io.StringIO(text)) == fast
    monkeypatch.undo()
    of_ms_marco = "".join(f"q{n // 100}\tü{n}\t{n % 100 + 1}\n" for n in range(5_000))
    fast_too = load_run(io.StringIO(of_ms_marco))
    monkeypatch.setattr(trec, "parse_block", lambda block, *form: None)
    assert load_run(io.StringIO(of_ms_marco)) == fast_too
    scores = {line.split()[2]: float(line.split()[4]) for line in lines}
    assert {doc.docid: doc.score for ranking in fast.values() for doc in ranking.docs} == scores


def test_topics_are_found_alike_in_any_layout(monkeypatch):
    rng = random.Random(6)
    qids = [
        "7",
        "8",
        "12345678",
        "12345679",
        "q1234567",
        "q12345678",
        "q12345679",
        "é" * 9,
        "a\x1fb",
        "x" * 40,
    ]
    texts = []
    for separator, before in ((" ", ""), ("\t", ""), (" ", " "), ("\t", "\n")):
        chosen = [rng.choice(qids) for _ in range(400)]
        lines = [
            f"{before}{qid}{separator}Q0 d{n} 1 1 t\n" for qid in chosen for n in range(rng.randint(1, 3))
        ]
        texts += ["".join(lines), "".join(lines[:1]), "garbage\n" + "".join(lines), "x y\n", "1\n"]
    texts += ["1 Q0 d 1 1 t\n1\tQ0 e 1 1 t\n", "1 Q0 d 1 1 t\n1 x\n", "12345678 1\n12345678 2\n"]
    fast = [run_topics.find_topics(text.encode()) for text in texts]
    monkeypatch.setattr(run_topics, "topic_rows", lambda data, starts: None)
    assert fast == [run_topics.find_topics(text.encode()) for text in texts]
    assert len(fast[0]) > 300


def test_a_pipe_gives_each_topic_as_soon_as_it_is_complete():
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as source, os.fdopen(write_end, "wb", buffering=0) as target:
        rankings = read_run(source)
        target.write(b"q1 Q0 a 1 1 t\nq2 Q0 a 1 1 t\n")
        result = []
        thread = threading.Thread(target=lambda: result.append(next(rankings).qid), daemon=True)
        thread.start()
        thread.join(10)
        assert result == ["q1"]
        target.close()
        assert [ranking.qid for ranking in rankings] == ["q2"]


def test_two_runs_can_be_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(RUN.encode())))
    assert list(zip(read_run("-"), read_run(file_of(tmp_path, RUN)))) == list(zip(RANKINGS, RANKINGS))


def test_memory_does_not_grow_with_the_number_of_topics(tmp_path, monkeypatch):
    monkeypatch.setattr(columns, "BUFFER", 1 << 14)

    def peak(topics):
        path = tmp_path / "run.txt"
        with open(path, "w") as out:
            for topic in range(topics):
                out.writelines(f"q{topic} Q0 d{n} {n} {-n} tag\n" for n in range(50))
        tracemalloc.start()
        assert sum(len(ranking.docs) for ranking in read_run(path)) == topics * 50
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(200)  # warms caches up
    assert peak(1000) < 1.5 * peak(200)
