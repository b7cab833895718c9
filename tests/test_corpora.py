"""A corpus is read from any of the field's forms, told by content, and every bad line is named."""

import gzip
import json
import os

import pytest

from qpeft_rerank.corpora import Passage, contents_of, count_passages, read_corpus
from qpeft_rerank.errors import FormatError, InputError

EXPECTED = [Passage("1", "Aaron", 'He said "no" twice.'), Passage("007", "", "plain é 😀 text")]

FORMS = {
    "anserini": (
        '{"id": "1", "title": "Aaron", "contents": "He said \\"no\\" twice."}\n'
        '{"id": "007", "contents": "plain é \\ud83d\\ude00 text"}\n'
    ),
    "anserini with the title in contents": (
        '{"id": "1", "title": "Aaron", "contents": "Aaron\\nHe said \\"no\\" twice."}\n'
        '{"id": "007", "title": "", "contents": "plain é 😀 text"}\n'
    ),
    "beir": (
        '{"_id": "1", "title": "Aaron", "text": "He said \\"no\\" twice.", "metadata": {"url": "x"}}\n'
        '{"_id": "007", "title": "", "text": "plain é 😀 text"}\n'
    ),
    "pyserini's dpr": (
        '{"id": "1", "contents": "\\"Aaron\\"\\nHe said \\"no\\" twice."}\n'
        '{"id": "007", "contents": "plain é 😀 text"}\n'
    ),
    "dpr": 'id\ttext\ttitle\n1\t"He said ""no"" twice."\tAaron\n007\tplain é 😀 text\t""\n',
    "dpr without a header": '1\tHe said "no" twice.\tAaron\n007\tplain é 😀 text\t\n',
    "title before text": 'id\ttitle\ttext\n1\tAaron\tHe said "no" twice.\n007\t\tplain é 😀 text\n',
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("zipped", [False, True])
def test_every_form_gives_the_same_passages(tmp_path, form, zipped):
    path = tmp_path / "corpus"  # no ending: the form is told from the content
    data = FORMS[form].encode()
    path.write_bytes(gzip.compress(data) if zipped else data)
    assert list(read_corpus(path)) == EXPECTED


def test_ms_marco_text_is_taken_as_it_stands(tmp_path):
    path = tmp_path / "collection.tsv"
    path.write_text('0\t"quoted" text\n1\t"all of it"\n')
    assert list(read_corpus(path)) == [Passage("0", "", '"quoted" text'), Passage("1", "", '"all of it"')]


def test_quotes_that_are_not_csv_quotes_stay(tmp_path):
    path = tmp_path / "psgs.tsv"
    path.write_text('id\ttext\ttitle\n1\t"Foo" and "Bar"\t"Baz"\n')
    assert list(read_corpus(path)) == [Passage("1", "Baz", '"Foo" and "Bar"')]


def test_windows_lines_blank_lines_and_a_byte_order_mark_are_accepted(tmp_path):
    path = tmp_path / "c.tsv"
    path.write_bytes(b"\xef\xbb\xbfid\ttext\ttitle\r\n\r\n7\tbody\ttop\r\n")
    assert list(read_corpus(path)) == [Passage("7", "top", "body")]


def test_integer_ids_become_strings(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text('{"id": 7, "contents": "x"}\n')
    assert [passage.docid for passage in read_corpus(path)] == ["7"]


def test_half_a_character_is_replaced(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text('{"id": "1", "contents": "a \\ud800 b"}\n')
    [passage] = read_corpus(path)
    assert passage.text == "a \ufffd b"


def test_of_a_beir_data_set_the_corpus_alone_is_read(tmp_path):
    (tmp_path / "corpus.jsonl").write_text('{"_id": "a", "title": "Bread", "text": "dough"}\n')
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "bread"}\n')
    (tmp_path / "qrels").mkdir()
    assert [passage.docid for passage in read_corpus(tmp_path)] == ["a"]


@pytest.mark.parametrize("text", [', "text": null', ', "text": ""'])
def test_a_title_may_be_all_there_is(tmp_path, text):
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"_id": "a", "title": "Bread"' + text + "}\n")
    assert list(read_corpus(path)) == [Passage("a", "Bread", "")]


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    (tmp_path / "b.jsonl").write_text('{"id": "2", "contents": "x"}\n')
    (tmp_path / "a.tsv").write_text("1\ty\n")
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b'{"id": "3", "contents": "z"}\n'))
    (tmp_path / "README.md").write_text("not a corpus")
    (tmp_path / ".hidden.tsv").write_text("not a corpus")
    (tmp_path / "empty.tsv").touch()
    assert [passage.docid for passage in read_corpus(tmp_path)] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        ('{"id": "1", "contents": "x"}\n{"id": "2", "contents": ', 2, "not valid JSON"),
        ('{"id": "1", "contents": "x"}\n["2"]', 2, "expected a JSON object, found list"),
        ('[{"id": "1", "contents": "x"}]', 1, "JSON array"),
        ('{"contents": "x"}', 1, "no id"),
        ('{"id": "1"}', 1, "has no text"),
        ('{"id": "1", "title": "x", "abstract": "y"}', 1, "has no text"),
        ('{"id": "1", "contents": ["x"]}', 1, "'contents' must be a string, found list"),
        ('{"id": "1", "title": 3, "text": "x"}', 1, "'title' must be a string, found int"),
        ('{"id": "", "contents": "x"}', 1, "the id is empty"),
        ('{"id": "a b", "contents": "x"}', 1, "white space"),
        ('{"id": "a\\u00a0", "contents": "x"}', 1, "white space"),
        ('{"id": "a\\ud800", "contents": "x"}', 1, "half a character"),
        ('{"id": true, "contents": "x"}', 1, "must be a string, found bool"),
        ("1\tx\n2\ty\tz\n", 2, "expected 2 columns between tabs (id, text), found 3"),
        ("id\ttext\ttitle\n1\tx\n", 2, "expected 3 columns"),
        ("just words\n", 1, "found 1 column"),
        ("docid\ttext\n1\tx\n", 1, "the header 'docid<tab>text' is not known"),
        ("1\t2\t3\t4\n", 1, "found 4 columns"),
        ("1\tx\n\n 2\ty\n", 3, "white space"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, content, line, reason):
    path = tmp_path / "corpus.txt"
    path.write_text(content)
    with pytest.raises(FormatError) as error:
        list(read_corpus(path))
    assert (error.value.path, error.value.line) == (str(path), line)
    assert reason in str(error.value) and "\n" not in str(error.value)


def test_an_id_that_occurs_twice_is_named_with_both_places(tmp_path):
    (tmp_path / "a.tsv").write_text("1\tx\n2\ty\n")
    (tmp_path / "b.tsv").write_text("3\tx\n2\tz\n")
    with pytest.raises(FormatError, match=r"b\.tsv:2: passage id '2' occurs twice \(first in .*a\.tsv:2\)"):
        list(read_corpus(tmp_path))
    assert len(list(read_corpus(tmp_path, unique=False))) == 4


def test_bytes_that_are_not_utf8_are_named(tmp_path):
    path = tmp_path / "c.tsv"
    path.write_bytes(b"1\tx\n2\t\xff\n")
    with pytest.raises(FormatError) as error:
        list(read_corpus(path))
    assert error.value.line == 2


def test_a_cut_gzip_file_is_an_error(tmp_path):
    path = tmp_path / "c.tsv.gz"
    lines = "".join(f"{n}\t{n * 7919 % 10007} words\n" for n in range(2000))
    path.write_bytes(gzip.compress(lines.encode())[:-200])
    with pytest.raises(InputError, match=r"c\.tsv\.gz"):
        list(read_corpus(path))


def test_a_missing_path_and_a_folder_without_corpus_are_errors(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        list(read_corpus(tmp_path / "none"))
    with pytest.raises(InputError, match="no corpus file"):
        list(read_corpus(tmp_path))


def test_reading_streams(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps({"id": "1", "contents": "x"}) + "\nnot JSON\n")
    passages = read_corpus(path)
    assert next(passages).docid == "1"  # the bad second line has not been read yet


def test_contents_put_the_title_on_a_line_of_its_own():
    assert contents_of(Passage("1", "Title", "text")) == "Title\ntext"
    assert contents_of(Passage("1", "", "text")) == "text"


@pytest.mark.parametrize("form", FORMS)
def test_passages_are_counted_by_lines(tmp_path, form):
    (tmp_path / "a.tsv").write_text("\ufeff" + FORMS[form] + "\n \n", encoding="utf-8")
    assert count_passages(tmp_path / "a.tsv") == 2
    (tmp_path / "b.txt").write_text("")
    (tmp_path / "c.tsv").write_text(FORMS[form].rstrip("\n"), encoding="utf-8")
    assert count_passages(tmp_path) == 4


def test_where_counting_costs_much_or_takes_the_text_away_there_is_no_count(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(FORMS["beir"].encode()))
    assert count_passages(tmp_path / "a.txt.gz") is None and count_passages(tmp_path) is None
    os.mkfifo(tmp_path / "pipe")
    assert count_passages(tmp_path / "pipe") is None
