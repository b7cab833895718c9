"""`qpeft convert`: to DPR's files and back."""

import json

import pytest

from qpeft_rerank.cli.__main__ import main


def test_convert_to_dpr_and_back(collection, capsys):
    assert main(["convert", "to-dpr", "run.txt", "-c", "small.toml", "--output", "dpr.json"]) == 0
    assert json.loads((collection / "dpr.json").read_text())[0]["question"] == "what do bees eat"
    assert main(["convert", "dpr", "dpr.json", "--output", "back"]) == 0
    assert (collection / "back" / "qrels.txt").read_text() == (collection / "qrels.txt").read_text()
    assert (collection / "back" / "topics.tsv").read_text() == (collection / "topics.tsv").read_text()
    assert (
        main(
            [
                "convert",
                "to-dpr",
                "run.txt",
                "-c",
                "small.toml",
                "--kind",
                "retrieval",
                "--answers",
                "back/answers.jsonl",
                "--output",
                "retrieval.json",
            ]
        )
        == 0
    )
    assert len(json.loads((collection / "retrieval.json").read_text())[0]["ctxs"]) == 8
    assert capsys.readouterr().out == ""


def test_convert_to_rank_llm_and_back(collection, capsys):
    assert main(["convert", "to-rank-llm", "run.txt", "-c", "small.toml", "--hits", "3"]) == 0
    out, log = capsys.readouterr()
    assert [len(json.loads(line)["candidates"]) for line in out.splitlines()] == [3, 3, 3, 3]
    assert log == "qpeft convert: stdout: 4 topics\n"
    (collection / "requests.jsonl").write_text(out)
    assert main(["convert", "rank-llm", "requests.jsonl", "--output", "back"]) == 0
    assert capsys.readouterr().err == "qpeft convert: back: 4 topics\n"
    assert (collection / "back" / "topics.tsv").read_text() == (collection / "topics.tsv").read_text()
    assert (collection / "back" / "run.txt").read_text().startswith("1 Q0 a 1 9.0 rank_llm\n")


def test_a_folder_may_be_named_like_a_form(collection, capsys):
    main(["convert", "dpr", "--output", "dpr", "no.json"])
    assert capsys.readouterr().err == "qpeft convert: error: JSON file not found: no.json\n"


@pytest.mark.parametrize(
    "arguments, line",
    [
        (
            [],
            "qpeft convert: error: name a form: dpr, to-dpr, rank-llm, to-rank-llm "
            "(see qpeft convert --help)",
        ),
        (
            ["drp"],
            "qpeft convert: error: there is no form 'drp' (did you mean dpr?); "
            "there are dpr, to-dpr, rank-llm, to-rank-llm",
        ),
        (
            ["--output", "nq", "dpr", "x.json"],
            "qpeft convert: error: name the form first, before --output: "
            "qpeft convert dpr or qpeft convert to-dpr or qpeft convert rank-llm "
            "or qpeft convert to-rank-llm",
        ),
        (["dpr"], "qpeft convert: error: no file given: name a DPR JSON file, or '-' for stdin"),
        (["dpr", "x.json"], "qpeft convert: error: no folder given: name one with --output"),
        (["dpr", "x.json", "--output", "back"], "qpeft convert: error: JSON file not found: x.json"),
        (
            ["to-dpr", "run.txt", "--topics", "topics.tsv", "--qrels", "qrels.txt", "--answers", "run.txt"],
            "qpeft convert: error: run.txt:1: expected a JSON object with qid and answers",
        ),
        (
            ["to-dpr", "run.txt", "-c", "small.toml", "--corpus", "corpus.jsonl", "--output", "corpus.jsonl"],
            "qpeft convert: error: corpus.jsonl: is the input corpus.jsonl: write to another file",
        ),
        (
            ["to-rank-llm", "run.txt", "-c", "small.toml", "--output", "run.txt"],
            "qpeft convert: error: run.txt: is the input run.txt: write to another file",
        ),
        (
            ["to-dpr", "-c", "small.toml", "--qrels", "-"],
            "qpeft convert: error: the run and the qrels cannot both come from stdin",
        ),
        (
            ["to-rank-llm", "-c", "small.toml", "--topics", "-"],
            "qpeft convert: error: the run and the topics cannot both come from stdin",
        ),
        (
            ["rank-llm", "x.jsonl", "--output", "back", "--runtag", "a b"],
            "qpeft convert: error: --runtag: 'a b' has white space: it is one column of the run",
        ),
    ],
)
def test_a_wrong_convert_is_one_line(collection, capsys, arguments, line):
    assert main(["convert", *arguments]) == 2
    assert capsys.readouterr() == ("", line + "\n")
