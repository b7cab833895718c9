"""Qrels are read strictly, and written."""

import gzip
import io
import sys
import types

import pytest

from qpeft_rerank.errors import FormatError, InputError
from qpeft_rerank.trec import as_qrels, read_qrels, write_qrels


def test_qrels_are_grades_by_topic_and_document(tmp_path):
    text = "007 0 d1 1\n007\t0\tü 0\r\n\nq2 Q0 d1 -2\n007 0 d2 3"
    expected = {"007": {"d1": 1, "ü": 0, "d2": 3}, "q2": {"d1": -2}}
    for content in (text.encode(), gzip.compress(text.encode()), b"\xef\xbb\xbf" + text.encode()):
        (tmp_path / "qrels").write_bytes(content)
        assert read_qrels(tmp_path / "qrels") == expected
    assert read_qrels(io.StringIO(text)) == expected
    write_qrels(expected, tmp_path / "again.txt")
    assert read_qrels(tmp_path / "again.txt") == expected


def test_qrels_as_beir_gives_them_have_three_columns_below_a_header(tmp_path):
    text = "query-id\tcorpus-id\tscore\r\n007\td1\t1\r\n007\td2\t0\r\nq2\td1\t2\r\n"
    path = tmp_path / "test.tsv"
    path.write_text("\ufeff" + text, encoding="utf-8", newline="")
    assert read_qrels(path) == {"007": {"d1": 1, "d2": 0}, "q2": {"d1": 2}}
    path.write_text(text + "q2 0 d2 1\n", encoding="utf-8", newline="")
    with pytest.raises(FormatError, match=r"test.tsv:5: expected 3 columns \(qid docid grade\), found 4"):
        read_qrels(path)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ("q 0 d1\n", "expected 4 columns (qid 0 docid grade), found 3"),
        ("q 0 d2 1 1\n", "found 5"),
        ("q 0 d2 1.0\n", "the grade '1.0' is not an integer"),
        ("q 0 d2 1_0\n", "'1_0' is not an integer"),
        ("q 0 d1 2\n", "document 'd1' has two grades for topic 'q'"),
    ],
)
def test_a_malformed_qrels_line_is_an_error_with_file_and_line(tmp_path, wrong, message):
    path = tmp_path / "qrels.txt"
    path.write_text("q 0 d1 1\nr 0 d1 1\n" + wrong)
    with pytest.raises(FormatError) as caught:
        read_qrels(path)
    assert str(caught.value).startswith(f"{path}:3: ") and message in str(caught.value)


def test_a_line_that_is_there_twice_says_nothing_new():
    assert read_qrels(io.BytesIO(b"q 0 d1 1\nq 0 d1 1\n")) == {"q": {"d1": 1}}


def test_qrels_that_are_no_file_are_asked_of_pyserini_by_name(monkeypatch, tmp_path):
    stub = types.ModuleType("qpeft_rerank.pyserini_names")
    stub.qrels_by_name = lambda name: {name: {"d": 1}}
    monkeypatch.setitem(sys.modules, "qpeft_rerank.pyserini_names", stub)
    assert read_qrels("dl19-passage") == {"dl19-passage": {"d": 1}}
    with pytest.raises(InputError, match="qrels file not found: .*none"):
        read_qrels(tmp_path / "none")


def test_qrels_ids_with_white_space_are_not_written():
    with pytest.raises(InputError, match="'d 1'"):
        write_qrels({"q": {"d 1": 1}}, io.StringIO())


@pytest.mark.parametrize("grade", [0.5, float("nan"), "1", None])
def test_a_grade_in_memory_is_a_whole_number(grade):
    assert as_qrels({"q": {"d": 1, "e": 2.0, "f": True}}) == {"q": {"d": 1, "e": 2, "f": 1}}
    with pytest.raises(InputError, match="^qrels: topic 'q', 'd': .* is not a whole number"):
        as_qrels({"q": {"e": 1, "d": grade}})
