"""Topics in each form give the same texts by qid; malformed lines are errors with file and line."""

import gzip
import io
import json
import sys
import types

import pytest

from qpeft_rerank.errors import FormatError, InputError
from qpeft_rerank.topics import read_topics, write_topics

TOPICS = {"007": "what is a spy’s licence", "q-2": "über  alles", "3": ""}

TREC = """\

<top>
<num> Number: 007
<title> what is a spy’s licence

<desc> Description:
Documents about
fiction.

<narr> Narrative:
Relevant if a < b.
</top>
<top><num>q-2</num>
<title>
Topic: über
alles
</title></top>
"""


def read(text, **settings):
    return read_topics(io.StringIO(text), **settings)


def test_tsv_jsonl_and_gzip_are_told_apart_by_content(tmp_path):
    tsv = "".join(f"{qid}\t{text}\n" for qid, text in TOPICS.items())
    jsonl = "".join(json.dumps({"qid": qid, "text": text}) + "\n" for qid, text in TOPICS.items())
    crlf = tsv.replace("\n", "\r\n")
    for text in (tsv, jsonl, crlf, "\ufeff" + tsv, "\n" + jsonl + "\n\n", tsv.rstrip("\n")):
        assert read(text) == TOPICS
        path = tmp_path / "topics.any"
        path.write_bytes(gzip.compress(text.encode()))
        assert read_topics(path) == read_topics(str(path)) == TOPICS


def test_trec_topics_give_the_title_or_the_field_asked_for():
    assert read(TREC) == {"007": "what is a spy’s licence", "q-2": "über alles"}
    one = TREC[: TREC.index("<top><num>q-2")]
    assert read(one, field="desc") == {"007": "Documents about fiction."}
    assert read(one, field="narr") == {"007": "Relevant if a < b."}


def test_trec_topics_need_no_closing_tags():
    assert read("<top>\n<num> Number: 1\n<title> one\n<top>\n<num> 2 \n<title> two <b>bold</b>\n") == {
        "1": "one",
        "2": "two <b>bold</b>",
    }
    assert read("<TOP>\n<NUM>1</NUM>\n<TITLE></TITLE>\n</TOP>\n") == {"1": ""}


@pytest.mark.parametrize("id_key", ["qid", "id", "_id", "query_id"])
@pytest.mark.parametrize("text_key", ["text", "query", "title", "question"])
def test_jsonl_topics_use_the_keys_of_the_field(id_key, text_key):
    assert read(json.dumps({id_key: "007", text_key: "a text", "metadata": {}})) == {"007": "a text"}


XML = """<?xml version="1.0" encoding="UTF-8"?>
<topics task="COVIDTREC" batch="5">
  <topic number="1">
    <query>bread &amp; butter</query>
    <question>how is bread &lt;made&gt;</question>
  </topic>
  <topic number="007" type="faceted"><query>salt</query><description>Of
  salt</description><subtopic number="1" type="nav">Find
  salt &#38; pepper</subtopic></topic>
</topics>
"""


def test_topics_with_numbers_as_attributes_and_entities():
    assert read(XML) == {"1": "bread & butter", "007": "salt"}
    assert read(XML, field="desc") == {"1": "how is bread <made>", "007": "Of salt"}
    web = XML.replace("topics", "webtrack2012").replace("<?xml", "<!-- a comment --><?xml", 0)
    assert read(web) == read(XML) == read(XML.partition("\n")[2])
    assert read('<topics><topic number="3">a patient\n with fever</topic></topics>') == {
        "3": "a patient with fever"
    }
    assert read("<x><top>\n<num>3<title>AT&T &amp; co\n</top></x>") == {"3": "AT&T & co"}
    essay = "<top><num>1<title>essays\n<desc>on the <title of a book> as its name\n</top>"
    assert read(essay, field="desc") == {"1": "on the <title of a book> as its name"}
    with pytest.raises(FormatError, match="topic '1' has no <narr>, only: query, question, num"):
        read(XML, field="narr")


def test_the_field_counts_for_jsonl_and_a_file_without_fields_refuses_it():
    line = '{"qid": "1", "title": "bread", "description": "how bread rises"}'
    assert read(line) == {"1": "bread"} and read(line, field="desc") == {"1": "how bread rises"}
    with pytest.raises(FormatError, match="expected the text as text under one of: narr, narrative"):
        read(line, field="narr")
    with pytest.raises(FormatError, match="no field 'desc'"):
        read("1\tbread\n", field="desc")


def test_ids_stay_strings():
    assert list(read("007\tx\n0070\ty\n")) == ["007", "0070"]
    assert list(read('{"id": 7, "text": "x"}\n{"id": "07", "text": "y"}\n')) == ["7", "07"]


@pytest.mark.parametrize("header", ["qid\tquery", "id\ttext", "query_id\tquery", "QID\tText"])
def test_a_header_is_no_topic(header):
    assert read(f"{header}\n1\tone\n") == {"1": "one"}
    assert list(read(f"1\tone\n{header}\n")) == ["1", header.split("\t")[0]]  # it is one on top only


@pytest.mark.parametrize(
    "text, line, message",
    [
        ("1\tone\n\ntwo\n", 3, "no tab"),
        ("1\tone\n2\ttwo\ttitle\n", 2, "expected qid<TAB>text, found 2 tabs"),
        ('<?xml version="1.0"?>\n<topics>\n', 1, "XML without <top>"),
        ("<html>\n", 1, "XML without <top>"),
        ("qid\tquery_text\n1\tbread\n", 1, "the header 'qid.*query_text' is not known"),
        ('\n[{"id": "1", "text": "x"}]\n', 2, "a JSON array .* one object per line"),
        ("1\tone\n2\ttwo\n1\tagain\n", 3, "topic '1' comes twice"),
        ("1\tone\nq 2\ttwo\n", 2, "white space"),
        ("\tone\n", 1, "empty or has white space"),
        ('{"id": "1", "text": "x"}\n{"id": "2", "text"\n', 2, "not JSON"),
        ('{"id": "1", "text": "x"}\n["2", "y"]\n', 2, "JSON object"),
        ('{"id": "1"}\n', 1, "the text as text under one of: text, query"),
        ('{"text": "x"}\n', 1, "the id as text under one of: qid"),
        ('{"id": true, "text": "x"}\n', 1, "the id"),
        ('{"id": "1", "text": "\\ud800"}\n', 1, "surrogate"),
        ("<top>\n<title> x\n</top>\n", 1, "no <num>"),
        ("<top>\n<num> 1\n</top>\n", 1, "no <title>, only: num"),
        ("<top>\n<num> 1\n<title> x\n</top>\nstray\n", 5, "outside of <top>"),
        ("<top>\nstray\n<num> 1\n<title> x\n</top>\n", 2, "outside of a field"),
        ("<top>\n<num>1\n<title>x\n</top>\n<top>\n<num>1\n<title>y\n</top>\n", 5, "topic '1' comes twice"),
    ],
)
def test_a_malformed_line_is_an_error_with_file_and_line(tmp_path, text, line, message):
    path = tmp_path / "topics.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FormatError, match=message) as caught:
        read_topics(path)
    assert (caught.value.path, caught.value.line) == (str(path), line)


def test_the_form_can_be_given():
    assert read('{"a"\tb\n', topics_format="tsv") == {'{"a"': "b"}
    with pytest.raises(FormatError, match="not JSON"):
        read("1\tone\n", topics_format="jsonl")
    with pytest.raises(InputError, match="'xml' is unknown: expected one of tsv, trec, jsonl"):
        read("1\tone\n", topics_format="xml")


def test_stdin_gives_topics(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"1\tone")))
    assert read_topics("-") == {"1": "one"}


def test_an_empty_file_has_no_topics_and_a_missing_one_is_an_error(tmp_path):
    assert read("\n \n") == {}
    with pytest.raises(InputError, match="topics file not found: .*none.tsv"):
        read_topics(tmp_path / "none.tsv")


def test_a_name_that_is_no_file_is_asked_of_pyserini(monkeypatch):
    stub = types.ModuleType("qpeft_rerank.pyserini_names")
    stub.topics_by_name = lambda name, field: {"007": f"{field} from {name}"}
    monkeypatch.setitem(sys.modules, "qpeft_rerank.pyserini_names", stub)
    assert read_topics("dl19-passage") == {"007": "title from dl19-passage"}
    assert read_topics("robust04", field="desc") == {"007": "desc from robust04"}
    with pytest.raises(
        InputError, match="dl19-passage: is no file, and a Pyserini name takes no topics format"
    ):
        read_topics("dl19-passage", topics_format="tsv")
    with pytest.raises(InputError, match="not found"):
        read_topics("dl19-passage.tsv")


def test_written_topics_are_read_again(tmp_path):
    write_topics(TOPICS, tmp_path / "topics.tsv")
    assert read_topics(tmp_path / "topics.tsv") == TOPICS
    write_topics({"1": "two\t\r\nlines\n"}, tmp_path / "topics.tsv")
    assert read_topics(tmp_path / "topics.tsv") == {"1": "two lines"}
    with pytest.raises(InputError, match="'a b'"):
        write_topics({"a b": "x"}, tmp_path / "topics.tsv")
