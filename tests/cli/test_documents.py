"""Long documents on the command line: cut a corpus, join a run, rerank by windows."""

import json

import pytest

from qpeft_rerank.cli.__main__ import main
from qpeft_rerank.corpora import read_corpus
from qpeft_rerank.document_scorer import DocumentScorer
from qpeft_rerank.reranker import Reranker
from qpeft_rerank.reranking import rerank
from qpeft_rerank.topics import read_topics
from qpeft_rerank.trec import format_ranking, load_run, read_run


@pytest.fixture
def windows(collection):
    """windows.txt: a run of windows."""
    (collection / "windows.txt").write_text(
        "1 Q0 a#1 1 9 x\n1 Q0 b#0 2 8 x\n1 Q0 b#4 3 7 x\n1 Q0 a#0 4 2 x\n2 Q0 c#0 1 1 x\n"
    )
    return collection


def order(run, qid):
    return [doc.docid for doc in load_run(run)[qid].docs]


def test_a_corpus_is_cut_and_the_run_of_its_windows_joined(windows, capsys):
    assert (
        main(
            ["documents", "cut", "--corpus", "corpus.jsonl", "--document-window", "5", "--output", "w.jsonl"]
        )
        == 0
    )
    assert capsys.readouterr() == ("", "qpeft documents: 8 documents, 18 windows\n")
    parts = [p for p in read_corpus("w.jsonl") if p.docid.startswith("a#")]
    assert [(p.docid, p.title, p.text) for p in parts] == [
        ("a#0", "Bees", "Bees eat nectar and pollen"),
        ("a#1", "Bees", "nectar and pollen from flowers."),
    ]
    assert main(["documents", "join", "windows.txt", "--output", "max.txt", "--hits", "1"]) == 0
    assert order("max.txt", "1") == ["a"] and order("max.txt", "2") == ["c"]
    mean = ["--document-score", "mean", "--document-best", "2", "--runtag", "mine"]
    assert main(["documents", "join", "windows.txt", *mean]) == 0
    assert capsys.readouterr().out == "1 Q0 b 1 7.5 mine\n1 Q0 a 2 5.5 mine\n2 Q0 c 1 1.0 mine\n"


def test_rerank_scores_documents_by_their_windows(collection, tiny_model):
    flags = ["rerank", "run.txt", "-c", "small.toml", "--model", tiny_model, "--output", "out.txt"]
    cut = [
        "--document-window",
        "4",
        "--document-stride",
        "3",
        "--document-score",
        "mean",
        "--document-best",
        "2",
    ]
    assert main([*flags, *cut]) == 0
    scorer = DocumentScorer(Reranker.from_model(tiny_model), 4, 3, "mean", 2)
    passages = {p.docid: p for p in read_corpus("corpus.jsonl")}

    class Corpus:
        name = "corpus"

        def get(self, docids):
            return {docid: passages[docid] for docid in docids}

    expected = rerank(read_run("run.txt"), read_topics("topics.tsv"), Corpus(), scorer)
    lines = "".join(format_ranking(ranking, "hard-prompt") for ranking in expected)
    assert (collection / "out.txt").read_text() == lines
    settings = json.loads((collection / "out.txt.json").read_text())["settings"]
    assert {name: value for name, value in settings.items() if name.startswith("document_")} == {
        "document_window": 4,
        "document_stride": 3,
        "document_score": "mean",
        "document_best": 2,
    }


def test_other_windows_do_not_resume_a_run(collection, tiny_model, capsys):
    flags = ["rerank", "run.txt", "-c", "small.toml", "--model", tiny_model, "--output", "out.txt"]
    assert main([*flags, "--document-window", "4"]) == 0
    assert main([*flags, "--resume", "--document-window", "4"]) == 0
    assert main([*flags, "--resume", "--document-window", "5"]) == 2
    assert "document_window was 4 and is now 5" in capsys.readouterr().err
    assert main([*flags, "--resume"]) == 2


WRONG = [
    (["documents", "join", "run.txt"], "no id of the run has the separator '#' (one is 'h')"),
    (
        ["documents", "join", "windows.txt", "--document-best", "2"],
        "--document-best is for --document-score mean",
    ),
    (["documents", "join", "no.txt"], "no.txt"),
    (["documents", "join", "empty.txt"], "empty.txt: the run is empty: there is nothing to join"),
    (["documents", "cut"], "no corpus given"),
    (["documents", "cut", "--corpus", "no.jsonl"], "no.jsonl"),
    (["documents", "cut", "--corpus", "corpus.jsonl", "--document-stride", "200"], "stride: 200"),
    (["documents", "cut", "--corpus", "corpus.jsonl", "--separator", " "], "white space"),
    (["rerank", "run.txt", "--document-stride", "2"], "--document-stride needs --document-window"),
    (["rerank", "run.txt", "--document-score", "max"], "--document-score needs --document-window"),
    (["rerank", "run.txt", "--document-window", "5", "--document-stride", "6"], "stride: 6"),
    (["rerank", "run.txt", "--document-window", "5", "--document-best", "6"], "--document-best is for"),
    (["rerank", "run.txt", "--document-window", "0"], "--document-window: 0 is below 1"),
]


@pytest.mark.parametrize("arguments, word", WRONG, ids=[" ".join(a) for a, _ in WRONG])
def test_what_is_wrong_is_one_line_and_no_file(windows, tiny_model, capsys, arguments, word):
    (windows / "empty.txt").touch()
    if arguments[0] == "rerank":
        arguments = [*arguments, "-c", "small.toml", "--model", tiny_model]
    assert main([*arguments, "--output", "out.txt"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1 and word in err
    assert not (windows / "out.txt").exists()
