"""Passages are found by id in a Lucene index, a corpus file or ir_datasets, with title and text apart."""

import gzip
import json
import os
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from qpeft_rerank import corpus_file
from qpeft_rerank.corpus_file import CorpusFile
from qpeft_rerank.errors import DependencyError, FormatError, InputError
from qpeft_rerank.passages import Passage, open_passages, passage_of_hit

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PASSAGES = [
    Passage("007", "Bond", "shaken, not stirred"),
    Passage("7", "", "no title é 😀"),
    Passage("nul", "T", "a\x00b\nsecond line"),
    Passage("quoted", "", '"Looks like a title"\nbut is text'),
]


@pytest.fixture(autouse=True)
def cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "qpeft-rerank"


def write_jsonl(path, passages):
    lines = (json.dumps({"_id": p.docid, "title": p.title, "text": p.text}) for p in passages)
    path.write_text("".join(line + "\n" for line in lines))
    return path


# --- a corpus file ---


@pytest.mark.parametrize("content", [b"1\tone\n2\ttwo\n", b'{"id": "1", "contents": "one"}\n'])
def test_a_pipe_is_no_corpus_file(content):
    read, write = os.pipe()
    os.write(write, content)
    os.close(write)
    try:
        with pytest.raises(InputError, match=f"^corpus '/dev/fd/{read}' is a pipe: .* it must be a file$"):
            open_passages(corpus=f"/dev/fd/{read}")
    finally:
        os.close(read)


def test_passages_of_a_file_are_found_by_id(tmp_path):
    corpus = open_passages(corpus=write_jsonl(tmp_path / "c.jsonl", PASSAGES))
    found = corpus.get(["quoted", "none", "7", "7", "007"])
    assert list(found.items()) == [("quoted", PASSAGES[3]), ("7", PASSAGES[1]), ("007", PASSAGES[0])]
    assert corpus.get([]) == {}
    assert len(corpus) == 4 and corpus.name.endswith("c.jsonl")


def test_a_dpr_file_with_header_mark_and_blank_lines(tmp_path):
    path = tmp_path / "psgs_w100.tsv"
    path.write_bytes('\ufeffid\ttext\ttitle\r\n1\t"He said ""no"""\tAaron\r\n\r\n2\tplain\tBeta'.encode())
    assert CorpusFile(path).get(["2", "1", "id"]) == {
        "2": Passage("2", "Beta", "plain"),
        "1": Passage("1", "Aaron", 'He said "no"'),
    }


def test_a_folder_of_files_of_different_forms(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    write_jsonl(folder / "a.jsonl", PASSAGES[:2])
    (folder / "b.tsv").write_text("x\tfrom b\ny\talso b\n")
    (folder / "c.tsv.gz").write_bytes(gzip.compress(b"z\tfrom c\n"))
    found = CorpusFile(folder).get(["z", "y", "7", "x"])
    assert {docid: passage.text for docid, passage in found.items()} == {
        "z": "from c",
        "y": "also b",
        "7": "no title é 😀",
        "x": "from b",
    }


def test_a_small_gzip_file_is_unpacked_for_the_time_being(tmp_path, cache_folder):
    path = tmp_path / "c.jsonl.gz"
    path.write_bytes(gzip.compress(write_jsonl(tmp_path / "c.jsonl", PASSAGES).read_bytes()))
    assert CorpusFile(path).get(["007"]) == {"007": PASSAGES[0]}
    assert not cache_folder.exists()


def test_the_index_and_text_of_a_large_file_are_kept(tmp_path, cache_folder, monkeypatch):
    monkeypatch.setattr(corpus_file, "LARGE", 10)
    path = tmp_path / "c.jsonl.gz"
    path.write_bytes(gzip.compress(write_jsonl(tmp_path / "c.jsonl", PASSAGES).read_bytes()))
    assert CorpusFile(path).get(["7"]) == {"7": PASSAGES[1]}
    assert sorted(file.suffix for file in cache_folder.iterdir()) == [".npy", ".txt"]

    monkeypatch.setattr(CorpusFile, "_build", lambda self: pytest.fail("the kept index was not used"))
    again = CorpusFile(path)
    assert again.get(["7"]) == {"7": PASSAGES[1]}
    assert isinstance(again._hashes, np.memmap) or isinstance(again._hashes.base, np.memmap)


def test_a_changed_file_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_file, "LARGE", 10)
    path = write_jsonl(tmp_path / "c.jsonl", PASSAGES)
    assert "new" not in CorpusFile(path).get(["new"])
    write_jsonl(path, [*PASSAGES, Passage("new", "", "added")])
    assert CorpusFile(path).get(["new"]) == {"new": Passage("new", "", "added")}


def test_a_damaged_kept_index_is_made_again(tmp_path, cache_folder, monkeypatch):
    monkeypatch.setattr(corpus_file, "LARGE", 10)
    path = write_jsonl(tmp_path / "c.jsonl", PASSAGES)
    CorpusFile(path)
    [kept] = cache_folder.iterdir()
    kept.write_bytes(b"not numpy")
    assert CorpusFile(path).get(["7"]) == {"7": PASSAGES[1]}


def test_ids_with_the_same_hash_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_file, "_hash", lambda docid: len(docid))
    corpus = CorpusFile(write_jsonl(tmp_path / "c.jsonl", [Passage(c, "", f"text of {c}") for c in "abcdef"]))
    assert corpus.get(["d", "x", "a"]) == {
        "d": Passage("d", "", "text of d"),
        "a": Passage("a", "", "text of a"),
    }


def test_an_id_that_occurs_twice_is_an_error(tmp_path):
    path = write_jsonl(tmp_path / "c.jsonl", [*PASSAGES, PASSAGES[1]])
    with pytest.raises(
        FormatError, match=r"c\.jsonl:5: passage id '7' occurs twice \(first in .*c\.jsonl:2\)"
    ):
        CorpusFile(path)


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        (b"1\tx\n\n2\ty\tz\n", 3, "expected 2 columns"),
        (b"1\tx\n2\t\xff\n", 2, "not UTF-8"),
        (b"\xff\n", 1, "not UTF-8"),
        (b"only words\n", 1, "found 1 column"),
    ],
)
def test_a_malformed_line_is_named_at_opening(tmp_path, content, line, reason):
    path = tmp_path / "c.tsv"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=reason) as error:
        CorpusFile(path)
    assert error.value.line == line


def test_an_empty_and_a_missing_corpus_are_errors(tmp_path):
    (tmp_path / "c.tsv").touch()
    with pytest.raises(InputError, match="no passage"):
        CorpusFile(tmp_path / "c.tsv")
    with pytest.raises(InputError, match="no such file"):
        CorpusFile(tmp_path / "none.tsv")


def test_threads_may_read_together(tmp_path):
    passages = [Passage(str(n), "", f"text {n}") for n in range(500)]
    corpus = CorpusFile(write_jsonl(tmp_path / "c.jsonl", passages))
    with ThreadPoolExecutor(8) as pool:
        parts = pool.map(lambda start: corpus.get([str(n) for n in range(start, 500, 8)]), range(8))
        merged = {docid: passage for part in parts for docid, passage in part.items()}
    assert merged == {passage.docid: passage for passage in passages}


def test_memory_is_far_below_the_size_of_the_corpus(tmp_path):
    path = tmp_path / "c.tsv"
    with open(path, "w") as handle:
        for number in range(20_000):
            handle.write(f"{number}\t{'long text ' * 100}\n")  # 20 MB
    corpus = CorpusFile(path)
    assert corpus._hashes.nbytes + corpus._places.nbytes == 16 * 20_000
    assert corpus.get(["19999"])["19999"].text.startswith("long text")


# --- a Lucene index ---


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    from qpeft_rerank.bm25 import build_index

    folder = tmp_path_factory.mktemp("passages") / "index"
    build_index(PASSAGES, folder)
    return folder


@pytest.mark.java
def test_an_index_gives_back_what_was_indexed(index):
    passages = open_passages(index=index)
    assert passages.get(["quoted", "none", "7", "007", "7", "nul"]) == {
        passage.docid: passage for passage in PASSAGES
    }
    assert str(index) in passages.name
    assert passages.get([]) == {}


@pytest.mark.java
def test_a_thread_may_read_the_index(index):
    passages = open_passages(index=index)
    with ThreadPoolExecutor(2) as pool:
        wanted = ["7", "007"] * 100
        assert list(pool.map(lambda docid: passages.get([docid])[docid].docid, wanted)) == wanted


@pytest.mark.java
def test_a_hit_of_pyserinis_searcher_gives_its_passage(index):
    from qpeft_rerank.lucene import open_index

    [hit] = open_index(index).searcher.search("shaken", 10)  # what LuceneSearcher.search hands on
    assert passage_of_hit(hit) == PASSAGES[0]


def make_index(folder, records, *options):
    from qpeft_rerank.java import java_class

    indexer = java_class("io.anserini.index.SimpleIndexer")(
        ["-collection", "JsonCollection", "-input", "", "-index", str(folder), "-threads", "1", *options]
    )
    indexer.addRawDocuments([json.dumps(record) for record in records])
    indexer.close()
    return folder


@pytest.mark.java
def test_other_peoples_indexes_are_understood(tmp_path):
    records = [
        {"id": "plain", "contents": "only contents"},
        {"id": "dpr", "contents": '"A title"\nand text'},
        {"id": "split", "title": "A title", "contents": "A title\nand text"},
    ]
    raw = open_passages(index=make_index(tmp_path / "raw", records, "-storeRaw"))
    assert raw.get(["plain", "dpr", "split"]) == {
        "plain": Passage("plain", "", "only contents"),
        "dpr": Passage("dpr", "A title", "and text"),
        "split": Passage("split", "A title", "and text"),
    }
    contents = open_passages(index=make_index(tmp_path / "contents", records, "-storeContents"))
    assert contents.get(["plain"]) == {"plain": Passage("plain", "", "only contents")}


@pytest.mark.java
def test_an_index_without_text_says_so(tmp_path):
    bare = open_passages(index=make_index(tmp_path / "bare", [{"id": "1", "contents": "gone"}]))
    with pytest.raises(InputError, match="stores no text .*--storeRaw"):
        bare.get(["1"])


@pytest.mark.java
@pytest.mark.parametrize("what", ["a missing folder", "a file", "an empty folder"])
def test_what_is_no_index_is_an_error(tmp_path, what):
    path = tmp_path / "thing"
    if what == "a file":
        path.touch()
    elif what == "an empty folder":
        path.mkdir()
    with pytest.raises(InputError, match="thing"):
        open_passages(index=path)


# --- ir_datasets ---


def stand_in(documents):
    """A module that answers as ir_datasets does, for one data set."""
    store = types.SimpleNamespace(get_many=lambda ids: {i: documents[i] for i in ids if i in documents})
    dataset = types.SimpleNamespace(has_docs=lambda: True, docs_store=lambda: store)

    def load(name):
        if name != "known":
            raise KeyError(name)
        return dataset

    return types.SimpleNamespace(load=load)


def test_passages_from_ir_datasets(monkeypatch):
    documents = {
        "1": types.SimpleNamespace(doc_id="1", title="T", text="text"),
        "2": types.SimpleNamespace(doc_id="2", text="no title"),
        "3": types.SimpleNamespace(doc_id="3", default_text=lambda: "all fields"),
    }
    monkeypatch.setitem(sys.modules, "ir_datasets", stand_in(documents))
    assert open_passages(ir_dataset="known").get(["3", "2", "1", "none"]) == {
        "1": Passage("1", "T", "text"),
        "2": Passage("2", "", "no title"),
        "3": Passage("3", "", "all fields"),
    }
    with pytest.raises(InputError, match="does not know 'unknown'"):
        open_passages(ir_dataset="unknown")


def test_without_ir_datasets_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    with pytest.raises(DependencyError, match=r"qpeft-rerank\[ir_datasets\]"):
        open_passages(ir_dataset="known")


# --- choosing ---


def test_exactly_one_source_must_be_given():
    with pytest.raises(InputError, match="found none"):
        open_passages()
    with pytest.raises(InputError, match="found index, corpus"):
        open_passages(index="a", corpus="b")


def test_import_loads_neither_java_nor_torch():
    code = (
        "import sys, qpeft_rerank.passages, qpeft_rerank.bm25, qpeft_rerank.corpora\n"
        "print([m for m in ('jnius', 'pyserini', 'torch') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": ROOT}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr
