"""Indexing and BM25: what plain Pyserini gives with the same settings, and nothing half-made left."""

import json
import os
from itertools import islice

import pytest

from qpeft_rerank import bm25, lucene
from qpeft_rerank.bm25 import build_index, search
from qpeft_rerank.corpora import Passage
from qpeft_rerank.errors import FormatError, InputError
from qpeft_rerank.trec import read_run

pytestmark = pytest.mark.java


PASSAGES = [
    Passage("007", "Apples", "Apples are red fruit, and some are green."),
    Passage("7", "Pears", "Pears are green fruit."),
    Passage("tie-b", "", "identical words"),
    Passage("tie-a", "", "identical words"),
    Passage("emoji", "", "a 😀 face"),
    Passage("empty", "", ""),
]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bm25") / "index"
    build_index(PASSAGES, folder)
    return folder


def docids(ranking):
    return [doc.docid for doc in ranking.docs]


# --- languages ---


def test_words_are_stemmed_as_the_language_of_the_index_says_which_the_index_keeps(tmp_path):
    houses = [Passage("h", "", "Die Häuser am Fluss sind alt."), Passage("b", "", "Brot und Salz.")]
    build_index(houses, tmp_path / "de", language="de")
    build_index(houses, tmp_path / "en")
    (tmp_path / "topics.tsv").write_text("1\tein Haus\n", encoding="utf-8")
    topics = tmp_path / "topics.tsv"
    assert docids(next(search(tmp_path / "de", topics))) == ["h"]
    assert docids(next(search(tmp_path / "en", topics))) == []
    with pytest.raises(InputError, match="the language of the index is 'de', not 'fr'"):
        search(tmp_path / "de", topics, language="fr")
    (tmp_path / "de" / lucene.LANGUAGE_FILE).unlink()  # as if Pyserini had built it
    assert docids(next(search(tmp_path / "de", topics))) == []
    assert docids(next(search(tmp_path / "de", topics, language="de"))) == ["h"]
    with pytest.raises(InputError, match="language 'xx' is not one of .* de, en, .* zh"):
        build_index(houses, tmp_path / "xx", language="xx")
    assert not (tmp_path / "xx").exists()


# --- searching ---


def test_rankings_come_in_the_order_of_the_topics(index):
    topics = {"9": "pears", "010": "apples", "2": "green fruit"}
    rankings = list(search(index, topics))
    assert [ranking.qid for ranking in rankings] == ["9", "010", "2"]
    assert [docids(ranking) for ranking in rankings] == [["7"], ["007"], ["7", "007"]]
    for ranking in rankings:
        scores = [doc.score for doc in ranking.docs]
        assert scores == sorted(scores, reverse=True) and all(isinstance(score, float) for score in scores)


def test_titles_are_searched(index):
    assert docids(next(search(index, {"1": "Apples"}))) == ["007"]


def test_topics_without_words_or_hits_give_empty_rankings(index):
    topics = {"1": "", "2": "the of", "3": "zzzz", "4": "pears", "5": " \t?!"}
    assert [docids(ranking) for ranking in search(index, topics)] == [[], [], [], ["7"], []]
    assert list(search(index, {})) == []


def test_equal_scores_are_ordered_by_docid(index):
    assert docids(next(search(index, {"1": "identical"}))) == ["tie-a", "tie-b"]


def test_characters_beyond_the_basic_plane_are_searched(index):
    assert docids(next(search(index, {"1": "😀"}))) == ["emoji"]


def test_hits_cuts_the_ranking(index):
    assert docids(next(search(index, {"1": "green fruit"}, hits=1))) == ["7"]


def test_the_query_itself_is_left_out_when_asked_for_and_the_next_one_moves_up(index):
    topics = {"7": "green fruit", "007": "green fruit", "1": "green fruit", "tie-a": "identical"}
    rankings = list(search(index, topics, hits=1, remove_query=True))
    assert [docids(ranking) for ranking in rankings] == [["007"], ["7"], ["7"], ["tie-b"]]
    assert [docids(ranking) for ranking in search(index, {"7": "pears"}, remove_query=True)] == [[]]


def test_k1_and_b_change_the_scores(index):
    default, other = (
        next(search(index, {"1": "green fruit"}, **options)).docs for options in ({}, {"k1": 2.0, "b": 0.9})
    )
    assert [doc.score for doc in default] != [doc.score for doc in other]


def test_rm3_finds_documents_without_a_word_of_the_query(tmp_path):
    passages = [Passage(f"both{n}", "", "wine and cheese") for n in range(3)] + [
        Passage("cheese", "", "cheese only")
    ]
    passages += [
        Passage(f"other{n}", "", "more words") for n in range(60)
    ]  # RM3 leaves out words of many passages
    build_index(passages, tmp_path / "index")
    assert "cheese" not in docids(next(search(tmp_path / "index", {"1": "wine"})))
    assert "cheese" in docids(next(search(tmp_path / "index", {"1": "wine"}, rm3=True)))


def test_rm3_needs_document_vectors(tmp_path):
    from qpeft_rerank.java import java_class

    indexer = java_class("io.anserini.index.SimpleIndexer")(
        [
            "-collection",
            "JsonCollection",
            "-input",
            "",
            "-index",
            str(tmp_path / "index"),
            "-threads",
            "1",
            "-storeRaw",
        ]
    )
    indexer.addRawDocuments([json.dumps({"id": "1", "contents": "words"})])
    indexer.close()
    with pytest.raises(InputError, match="RM3 needs document vectors"):
        search(tmp_path / "index", {"1": "words"}, rm3=True)


def test_threads_do_not_change_the_result(index):
    topics = {str(n): ["green fruit", "identical", "pears", ""][n % 4] for n in range(100)}
    assert list(search(index, topics, threads=4)) == list(search(index, topics))


def test_the_search_streams(index):
    class Topics(dict):
        def items(self):
            for n in range(10**9):
                yield str(n), "pears"

    assert [ranking.qid for ranking in islice(search(index, Topics()), 40)] == [str(n) for n in range(40)]


@pytest.mark.parametrize(
    "wrong", [{"hits": 0}, {"threads": 0}, {"k1": -1}, {"k1": float("nan")}, {"b": 1.5}, {"b": -0.1}]
)
def test_settings_out_of_range_are_errors_at_once(index, wrong):
    with pytest.raises(InputError):
        search(index, {"1": "x"}, **wrong)


def test_what_is_no_index_is_an_error_at_once(tmp_path):
    with pytest.raises(
        InputError, match="neither a folder with a Lucene index nor the name of a prebuilt index"
    ):
        search(str(tmp_path / "none"), {"1": "x"})
    with pytest.raises(InputError, match="not a Lucene index"):
        search(tmp_path, {"1": "x"})
    (tmp_path / "segments_1").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="cannot be opened"):
        search(tmp_path, {"1": "x"})


def test_a_prebuilt_index_without_network_is_one_clear_error(monkeypatch, capsys):
    monkeypatch.setattr(lucene, "_reachable", lambda url: False)
    monkeypatch.setenv("PYSERINI_CACHE", "nowhere")
    with pytest.raises(
        InputError, match="the prebuilt index msmarco-v1-passage cannot be fetched: no network"
    ):
        search("msmarco-v1-passage", {"1": "x"})
    assert capsys.readouterr() == ("", "")


# --- indexing ---


def test_progress_counts_passages_and_empty_ones_are_left_out(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(bm25, "BATCH_PASSAGES", 2)
    seen = []
    assert (
        build_index(iter(PASSAGES), tmp_path / "deep" / "er" / "index", threads=2, progress=seen.append) == 5
    )
    assert seen == [2, 2, 2]
    assert "1 of 6 passages have no text" in caplog.text
    assert os.listdir(tmp_path / "deep" / "er") == ["index"]
    assert "write.lock" not in os.listdir(tmp_path / "deep" / "er" / "index")


def test_an_error_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(bm25, "BATCH_PASSAGES", 1)
    corpus = tmp_path / "c.tsv"
    corpus.write_text("1\tx\n2\ty\n1\tz\n")
    (tmp_path / "out").mkdir()
    with pytest.raises(FormatError, match="occurs twice"):
        build_index(corpus, tmp_path / "out" / "index")
    with pytest.raises(KeyboardInterrupt):
        build_index(PASSAGES, tmp_path / "out" / "index", progress=interrupt)
    assert os.listdir(tmp_path / "out") == []


def interrupt(done):
    raise KeyboardInterrupt


def test_an_empty_corpus_is_an_error(tmp_path):
    for content in ("", "1\t \n"):
        (tmp_path / "c.tsv").write_text(content)
        with pytest.raises(InputError, match=r"c\.tsv: no passage with text"):
            build_index(tmp_path / "c.tsv", tmp_path / "index")
    assert os.listdir(tmp_path) == ["c.tsv"]


def test_an_index_is_replaced_only_when_asked(tmp_path):
    build_index(PASSAGES[:1], tmp_path / "index")
    with pytest.raises(InputError, match="there is an index already"):
        build_index(PASSAGES[1:2], tmp_path / "index")
    build_index(PASSAGES[1:2], tmp_path / "index", overwrite=True)
    assert [docids(ranking) for ranking in search(tmp_path / "index", {"1": "apples", "2": "pears"})] == [
        [],
        ["7"],
    ]
    assert os.listdir(tmp_path) == ["index"]


def test_a_folder_that_is_no_index_is_never_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    for overwrite in (False, True):
        with pytest.raises(InputError, match="not empty and not a Lucene index"):
            build_index(PASSAGES, tmp_path / "photos", overwrite=overwrite)
    with pytest.raises(InputError, match="a file is in the place"):
        build_index(PASSAGES, tmp_path / "photos" / "cat.jpg", overwrite=True)
    (tmp_path / "empty").mkdir()
    assert build_index(PASSAGES, tmp_path / "empty") == 5


def test_lucene_failing_half_way_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(
        bm25,
        "_stored_json",
        lambda passage: (
            "not JSON"
            if passage.docid == "7"
            else json.dumps({"id": passage.docid, "contents": passage.text})
        ),
    )
    with pytest.raises(InputError, match="took only 4 of the 5 passages"):
        build_index(PASSAGES, tmp_path / "index")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("lost", ["segments_*", "_*"])
def test_an_index_that_was_not_written_whole_is_named_as_the_user_did(tmp_path, monkeypatch, lost):
    index_into = bm25._index_into

    def on_a_full_disk(folder, *arguments):
        done = index_into(folder, *arguments)
        found = list(folder.glob(lost))
        assert found
        for file in found:
            file.unlink()
        return done

    monkeypatch.setattr(bm25, "_index_into", on_a_full_disk)
    with pytest.raises(InputError) as error:
        build_index(PASSAGES, tmp_path / "ix")
    text = str(error.value)
    assert text.startswith(f"{tmp_path / 'ix'}: the index is not whole") and "is the disk full?" in text
    assert "building" not in text and os.listdir(tmp_path) == []


def test_a_written_run_reads_back_in_the_same_order(index, tmp_path):
    from qpeft_rerank.trec import write_run

    topics = {"1": "green fruit", "2": "identical", "3": "nothing here"}
    rankings = list(search(index, topics))
    write_run(rankings, tmp_path / "run.txt", "bm25")
    assert {r.qid: docids(r) for r in read_run(tmp_path / "run.txt")} == {
        r.qid: docids(r) for r in rankings if r.docs
    }
