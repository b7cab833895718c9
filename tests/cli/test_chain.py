"""The verbs on a collection of eight passages:
what they write, and one line for everything that can be wrong.
"""

import io
import json

import pytest

from qpeft_rerank.cli.__main__ import main
from qpeft_rerank.trec import load_run


def rerank(*arguments, model):
    return main(["rerank", "-c", "small.toml", "--model", model, *arguments])


def order(run, qid):
    return [doc.docid for doc in load_run(run)[qid].docs]


# ---- rerank ----


def test_rerank_keeps_every_candidate_and_the_tail_in_order(collection, tiny_model, capsys):
    assert rerank("run.txt", "--depth", "3", "--output", "out.txt", model=tiny_model) == 0
    assert capsys.readouterr().out == ""
    for qid in ("1", "2", "3", "007"):
        assert sorted(order("out.txt", qid)[:3]) == ["a", "b", "c"]
        assert order("out.txt", qid)[3:] == ["d", "e", "f", "g", "h"]
    assert (collection / "out.txt").read_text().endswith(" hard-prompt\n")


def test_rerank_of_stdin_to_stdout_is_the_same_as_of_files(collection, tiny_model, capsys, monkeypatch):
    assert rerank("run.txt", "--output", "out.txt", "--runtag", "mine", model=tiny_model) == 0
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper((collection / "run.txt").open("rb")))
    assert rerank("--runtag", "mine", model=tiny_model) == 0
    assert capsys.readouterr().out == (collection / "out.txt").read_text()


def test_rerank_has_one_record_beside_the_run_and_no_other_file(collection, tiny_model):
    before = {p.name for p in collection.iterdir()}
    assert rerank("--run", "run.txt", "--output", "out.txt", model=tiny_model) == 0
    assert {p.name for p in collection.iterdir()} - before == {"out.txt", "out.txt.json"}
    assert json.loads((collection / "out.txt.json").read_text())["settings"]["depth"] == 100


def test_what_is_missing_is_skipped_and_reported_when_asked_for(collection, tiny_model, capsys):
    with (collection / "run.txt").open("a") as run:
        run.write("1 Q0 nowhere 9 0.5 bm25\n9 Q0 a 1 1 bm25\n")
    assert rerank("run.txt", "--missing", "skip", "--output", "out.txt", model=tiny_model) == 0
    assert order("out.txt", "1")[-1] == "nowhere"
    assert order("out.txt", "9") == ["a"]
    err = capsys.readouterr().err
    assert "topic '9'" in err and "passage 'nowhere'" in err and "skipped 1 topics and 1 candidates" in err


def test_a_finished_run_is_left_as_it_is_by_resume(collection, tiny_model):
    assert rerank("run.txt", "--output", "out.txt", model=tiny_model) == 0
    before = (collection / "out.txt").read_bytes()
    assert rerank("run.txt", "--output", "out.txt", "--resume", model=tiny_model) == 0
    assert (collection / "out.txt").read_bytes() == before


def test_resume_under_other_settings_is_an_error_that_names_them(collection, tiny_model, capsys):
    assert rerank("run.txt", "--output", "out.txt", model=tiny_model) == 0
    assert rerank("run.txt", "--output", "out.txt", "--resume", "--depth", "3", model=tiny_model) == 2
    assert "depth was 100 and is now 3" in capsys.readouterr().err


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    "file, before, after, what",
    [
        ("run.txt", " 9 bm25", " 8.5 bm25", "the run has"),
        ("corpus.jsonl", "nectar", "honey", "the passages have"),
    ],
    ids=["run", "corpus"],
)
def test_what_has_changed_since_is_not_resumed(
    collection, tiny_model, capsys, file, before, after, what, finished
):
    assert rerank("run.txt", "--window", "1", "--output", "out.txt", model=tiny_model) == 0
    if not finished:
        lines = (collection / "out.txt").read_text().splitlines(keepends=True)
        (collection / "out.txt.partial").write_text("".join(lines[:11]))
        (collection / "out.txt").unlink()
        (collection / "out.txt.json").rename(collection / "out.txt.partial.json")
    again = ["--window", "1", "--output", "out.txt", "--resume"]
    text = (collection / file).read_text()
    (collection / file).write_text(text.replace(before, after))
    assert rerank("run.txt", *again, model=tiny_model) == 2
    assert f"cannot resume: {what} changed" in capsys.readouterr().err
    if file == "run.txt":  # a run is known by its content
        (collection / "same.txt").write_text(text)
        assert rerank("./same.txt", *again, model=tiny_model) == 0
        assert len((collection / "out.txt").read_text().splitlines()) == len(text.splitlines())


def test_a_run_of_another_split_is_an_error_also_where_topics_may_be_missing(collection, tiny_model, capsys):
    (collection / "other.tsv").write_text("1\t\n50\tanother question\n")
    skip = ["run.txt", "--topics", "other.tsv", "--missing", "skip", "--output", "out.txt"]
    before = {p.name for p in collection.iterdir()}
    assert rerank(*skip, model="nowhere/model") == 2  # said before a model is loaded
    err = capsys.readouterr().err
    assert "not one topic of the run has a text" in err and "'1'" in err and len(err.splitlines()) == 1
    assert {p.name for p in collection.iterdir()} == before
    with (collection / "other.tsv").open("a") as topics:
        topics.write("007\tlast of the run\n")
    assert rerank(*skip, model=tiny_model) == 0
    assert list(load_run("out.txt")) == ["1", "2", "3", "007"]


def test_an_input_is_not_replaced(collection, tiny_model, capsys):
    (collection / "link.txt").symlink_to("run.txt")
    (collection / "windows.txt").write_text("1 Q0 a#1 1 9 x\n")
    before = {p.name: p.read_bytes() for p in collection.iterdir()}
    flags = ["-c", "small.toml", "--model", tiny_model]
    for arguments, output in [
        (["rerank", "run.txt", *flags], "run.txt"),
        (["rerank", "run.txt", *flags], "./link.txt"),
        (["rerank", "run.txt", *flags, "--topics", "topics.tsv"], "topics.tsv"),
        (["fuse", "windows.txt", "run.txt"], "run.txt"),
        (["documents", "join", "windows.txt"], "windows.txt"),
        (["documents", "cut", "--corpus", "corpus.jsonl"], "corpus.jsonl"),
        (["evaluate", "run.txt", "--qrels", "qrels.txt"], "run.txt"),
    ]:
        assert main([*arguments, "--output", output]) == 2, arguments
        err = capsys.readouterr().err
        assert f"{output}: is the input" in err and len(err.splitlines()) == 1
    assert {p.name: p.read_bytes() for p in collection.iterdir()} == before


WRONG_RERANK = [
    (["no.txt"], "no.txt"),
    (["empty.txt"], "the run is empty: there is nothing to rerank"),
    (["five.txt"], "five.txt:1"),
    (["run.txt", "--run", "run.txt"], "two runs given"),
    (["run.txt", "--topics", "no.tsv"], "no.tsv"),
    (["run.txt", "--topics", "two.tsv"], "topic '3'"),
    (["run.txt", "--split", "other"], "there are train, dev, test"),
    (["run.txt", "--corpus", "no.jsonl"], "no.jsonl"),
    (["run.txt", "--corpus", "one.jsonl"], "passage 'b' (candidate of topic '1')"),
    (["run.txt", "--index", "x", "--corpus", "y"], "one of --index, --corpus"),
    (["run.txt", "--adapter", "folder"], "adapter_config.json"),
    (["run.txt", "--adapter", "folder", "--method", "hard-prompt"], "--method and --adapter"),
    (["run.txt", "--method", "qpeft-a"], "must be trained"),
    (["run.txt", "--force"], "--force is for an adapter"),
    (["run.txt", "--device", "abacus"], "abacus"),
    (["run.txt", "--dtype", "float8"], "'float8' is not one of"),
    (["run.txt", "--depth", "0"], "--depth: 0 is below 1"),
    (["run.txt", "--batch-tokens", "0"], "--batch-tokens: 0 is below 1"),
    (["run.txt", "--output", "nowhere/out.txt"], "nowhere"),
    (["run.txt", "--output", "folder"], "folder"),
    (["run.txt", "--resume"], "--resume needs --output"),
    (["run.txt", "--processes", "0"], "--processes: 0 is below 1"),
    (["run.txt", "--processes", "2", "--device-map", "auto"], "--processes and --device-map"),
    (["--topics", "-"], "both"),
]


@pytest.mark.parametrize("arguments, word", WRONG_RERANK, ids=[" ".join(a) for a, _ in WRONG_RERANK])
def test_a_wrong_rerank_is_one_line_and_no_run(collection, tiny_model, capsys, arguments, word):
    (collection / "empty.txt").write_text("\n")
    (collection / "five.txt").write_text("1 Q0 a 1 2.0\n")
    (collection / "two.tsv").write_text("1\tone\n2\ttwo\n")
    (collection / "one.jsonl").write_text('{"id": "a", "contents": "text"}\n')
    (collection / "folder").mkdir()
    arguments = (
        arguments
        if "--output" in arguments or "--resume" in arguments
        else [*arguments, "--output", "out.txt"]
    )
    assert rerank(*arguments, model=tiny_model) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1 and err.startswith("qpeft rerank: error: ") and word in err
    assert not (collection / "out.txt").exists()


def test_several_processes_write_the_bytes_of_one_also_after_one_of_them_died(
    collection, tiny_model, capsys, monkeypatch
):
    from tiny_models import tiny_scorer
    from torch import get_num_threads, set_num_threads

    from qpeft_rerank.models.adapter import save_adapter
    from qpeft_rerank.models.base import load_base
    from qpeft_rerank.workers import Workers

    save_adapter("adapter", tiny_scorer(load_base(tiny_model, device="cpu"), "qpeft-r"))
    flags = ["--adapter", "adapter", "--device", "cpu", "--window", "1"]
    threads, dealt = get_num_threads(), []

    def begin(self, pairs):  # the second process ends before its second window
        dealt.append(pairs)
        if len(dealt) == 4:
            self._workers[1].process.kill()
        return begin_as_ever(self, pairs)

    begin_as_ever = Workers.begin
    monkeypatch.setattr(Workers, "begin", begin)
    set_num_threads(1)
    try:
        assert rerank("run.txt", *flags, "--output", "one.txt", model=tiny_model) == 0
        several = ["run.txt", *flags, "--processes", "2", "--output", "two.txt"]
        assert rerank(*several, model=tiny_model) == 2
        err = capsys.readouterr().err
        assert len(err.splitlines()) == 1 and "process 2 of 2 (cpu) has ended before its work was done" in err
        whole = (collection / "one.txt").read_bytes()
        there = (collection / "two.txt.partial").read_bytes()
        assert there and whole.startswith(there) and len(there) < len(whole)
        assert rerank("run.txt", *flags, "--output", "two.txt", "--resume", model=tiny_model) == 0
    finally:
        set_num_threads(threads)
    assert (collection / "two.txt").read_bytes() == whole
    assert json.loads((collection / "two.txt.json").read_text())["processes"] == 1


def test_a_model_that_is_not_there_is_one_line(collection, capsys):
    assert rerank("run.txt", model="nowhere/model") == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and "nowhere/model" in err


# ---- train ----


def train(*arguments, model):
    return main(["train", "run.txt", "-c", "small.toml", "--model", model, "--epochs", "1", *arguments])


@pytest.mark.slow
def test_train_makes_an_adapter_that_rerank_takes(collection, tiny_model, capsys):
    assert (
        train(
            "--dev-run", "run.txt", "--method", "qpeft-r", "--k", "3", "--output", "adapter", model=tiny_model
        )
        == 0
    )
    out, err = capsys.readouterr()
    assert out == "" and "epoch 1: loss" in err
    names = {p.name for p in (collection / "adapter").iterdir()}
    assert {
        "adapter_config.json",
        "adapter_model.safetensors",
        "training.json",
        "training.png",
        "run.dev.txt",
    } <= names
    assert main(["rerank", "run.txt", "-c", "small.toml", "--adapter", "adapter", "--output", "out.txt"]) == 0
    assert (collection / "out.txt").read_text().endswith(" qpeft-r\n")


WRONG_TRAIN = [
    (["--method", "hard-prompt"], "has nothing to train"),
    (["--method", "qpeft"], "is not one of"),
    (["--k", "0"], "k: 0"),
    (["--margin", "-1"], "argument --margin: -1"),
    (["--learning-rate", "fast"], "'fast' is not a number"),
    (["--filters", "digits"], "'digits' is not one of"),
    (["--qrels", "no.txt"], "no.txt"),
    (["--dev-run", "no.txt"], "no.txt"),
    (["--dev-run", "run.txt", "--dev-split", "other"], "there are train, dev, test"),
    (["--select", "ndgc"], "select: 'ndgc' is neither 'loss' nor a measure"),
    (["--select", "nDCG@10"], "select: there is no development run"),
]


@pytest.mark.parametrize("arguments, word", WRONG_TRAIN, ids=[" ".join(a) for a, _ in WRONG_TRAIN])
def test_a_wrong_train_is_an_error_and_makes_no_adapter(collection, tiny_model, capsys, arguments, word):
    assert train(*arguments, "--output", "adapter", model=tiny_model) == 2
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if line.startswith("qpeft train: error: ")]
    assert out == "" and len(errors) == 1 and word in errors[0] and "Traceback" not in err
    assert not (collection / "adapter" / "adapter_config.json").exists()


def test_an_output_that_cannot_be_is_said_before_the_model_is_loaded(collection, capsys):
    for output, word in (("run.txt", "run.txt is a file"), ("run.txt/adapter", "run.txt is a file")):
        assert train("--output", output, model="nowhere/model") == 2
        assert word in capsys.readouterr().err


def test_the_record_of_a_training_names_its_sources(collection, tiny_model):
    assert train("--output", "adapter", model=tiny_model) == 0
    assert json.loads((collection / "adapter" / "training.json").read_text())["settings"]["sources"] == {
        "run": "run.txt",
        "topics": "topics.tsv",
        "qrels": "qrels.txt",
        "passages": "corpus.jsonl",
        "collection": "small",
        "split": "train",
    }


@pytest.mark.parametrize("arguments, word", [(["--model", "x"], "--output"), (["--output", "x"], "--model")])
def test_train_says_what_it_needs(collection, capsys, arguments, word):
    assert main(["train", "run.txt", *arguments]) == 2
    assert word in capsys.readouterr().err


# ---- index and bm25 ----


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


# ---- convert ----


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


def test_a_folder_may_be_named_like_a_form(collection, capsys):
    main(["convert", "dpr", "--output", "dpr", "no.json"])
    assert capsys.readouterr().err == "qpeft convert: error: JSON file not found: no.json\n"


@pytest.mark.parametrize(
    "arguments, line",
    [
        ([], "qpeft convert: error: name a form: dpr, to-dpr (see qpeft convert --help)"),
        (["drp"], "qpeft convert: error: there is no form 'drp' (did you mean dpr?); there are dpr, to-dpr"),
        (
            ["--output", "nq", "dpr", "x.json"],
            "qpeft convert: error: name the form first, before --output: "
            "qpeft convert dpr or qpeft convert to-dpr",
        ),
        (["dpr"], "qpeft convert: error: no file given: name a DPR JSON file, or '-' for stdin"),
        (["dpr", "x.json"], "qpeft convert: error: no folder given: name one with --output"),
        (["dpr", "x.json", "--output", "back"], "qpeft convert: error: JSON file not found: x.json"),
        (
            ["to-dpr", "run.txt", "--topics", "topics.tsv", "--qrels", "qrels.txt", "--answers", "run.txt"],
            "qpeft convert: error: run.txt:1: expected a JSON object with qid and answers",
        ),
    ],
)
def test_a_wrong_convert_is_one_line(collection, capsys, arguments, line):
    assert main(["convert", *arguments]) == 2
    assert capsys.readouterr() == ("", line + "\n")
