"""The verbs one after the other on a collection of eight passages."""

import json

import pytest

from qpeft_rerank.cli.__main__ import main


@pytest.mark.java
def test_the_chain_from_corpus_to_measures(collection, tiny_model, capsys):
    toml = str(
        collection / "small.toml"
    )  # a path that does not depend on the folder in which the JVM was started
    assert main(["index", "-c", toml]) == 0
    assert capsys.readouterr().err.endswith("small: 8 passages\n")
    assert main(["bm25", "-c", toml, "--hits", "5", "--output", "bm25.txt"]) == 0
    assert (collection / "bm25.txt").read_text().startswith("1 Q0 ")
    assert main(["rerank", "bm25.txt", "-c", toml, "--model", tiny_model, "--output", "reranked.txt"]) == 0
    assert main(["evaluate", "-c", toml, "-m", "R@5", "--format", "json", "bm25.txt", "reranked.txt"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert runs[0]["means"] == runs[1]["means"]
    assert runs[0]["topics"]["judged"] == 4


@pytest.mark.java
def test_a_wrong_index_or_topics_is_one_line_and_no_run(collection, capsys):
    (collection / "folder").mkdir()
    (collection / "folder" / "file").touch()
    toml = str(
        collection / "small.toml"
    )  # a path that does not depend on the folder in which the JVM was started
    assert main(["index", "-c", toml]) == 0
    for arguments, word in [
        (["index", "-c", toml], "--overwrite"),
        (["index", "--corpus", "no.jsonl", "--output", str(collection / "new")], "no.jsonl"),
        (["index", "--corpus", "topics.tsv", "--output", "folder"], "folder"),
        (["bm25", "--index", "folder", "--topics", "topics.tsv", "--output", "out.txt"], "folder"),
        (["bm25", "--index", "no/index", "--topics", "topics.tsv", "--output", "out.txt"], "no/index"),
        (["bm25", "-c", toml, "--topics", "no.tsv", "--output", "out.txt"], "no.tsv"),
        (
            ["bm25", "-c", toml, "--topics", "qrels.txt", "--topics-format", "jsonl", "--output", "out.txt"],
            "qrels.txt:1",
        ),
        (["bm25", "-c", toml, "--output", "no/out.txt"], "no/out.txt"),
    ]:
        capsys.readouterr()
        assert main(arguments) == 2, arguments
        out, err = capsys.readouterr()
        assert out == "" and len(err.splitlines()) == 1 and word in err, arguments
    assert not (collection / "out.txt").exists()
