"""`qpeft rerank`: what it writes, and one line for everything that can be wrong."""

import io
import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from qpeft_rerank.cli.__main__ import main
from qpeft_rerank.trec import load_run


def rerank(*arguments, model):
    return main(["rerank", "-c", "small.toml", "--model", model, *arguments])


def order(run, qid):
    return [doc.docid for doc in load_run(run)[qid].docs]


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
    assert (
        "topic '9'" in err
        and "passage 'nowhere'" in err
        and "skipped 1 topics, which stay as they were, and 1 candidates" in err
    )


def test_a_finished_run_is_left_as_it_is_by_resume(collection, tiny_model):
    assert rerank("run.txt", "--output", "out.txt", model=tiny_model) == 0
    before = (collection / "out.txt").read_bytes()
    assert rerank("run.txt", "--output", "out.txt", "--resume", model=tiny_model) == 0
    assert (collection / "out.txt").read_bytes() == before


def test_resume_knows_model_and_passages_whatever_they_are_called(collection, tiny_model):
    stop_at_topic_3(collection, tiny_model)
    (collection / "model").symlink_to(tiny_model)
    again = [*AGAIN, "--resume", "--corpus", "./corpus.jsonl"]
    assert rerank("run.txt", *again, model="./model") == 0
    assert rerank("run.txt", *again, model=tiny_model) == 0


def test_resume_under_other_settings_is_an_error_that_names_them(collection, tiny_model, capsys):
    assert rerank("run.txt", "--output", "out.txt", model=tiny_model) == 0
    assert rerank("run.txt", "--output", "out.txt", "--resume", "--depth", "3", model=tiny_model) == 2
    assert "depth was 100 and is now 3" in capsys.readouterr().err


AGAIN = ["--window", "1", "--output", "out.txt"]


def stop_at_topic_3(collection, model):
    """Leave a run that has stopped after two of four topics, since the topics lack the third."""
    whole = (collection / "topics.tsv").read_text()
    (collection / "topics.tsv").write_text(whole.replace("3\twho paints walls\n", ""))
    assert rerank("run.txt", *AGAIN, model=model) == 2
    assert len((collection / "out.txt.partial").read_text().splitlines()) == 16
    (collection / "topics.tsv").write_text(whole)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    "file, before, after, message",
    [
        ("run.txt", " 9 bm25", " 8.5 bm25", "is of another run"),
        ("topics.tsv", "how do bees dance", "how does a bee dance", "is of another run"),
        (
            "corpus.jsonl",
            "nectar",
            "honey",
            "cannot resume: the passages, or",
        ),
    ],
    ids=["run", "topics", "corpus"],
)
def test_what_has_changed_since_is_not_resumed(
    collection, tiny_model, capsys, file, before, after, message, finished
):
    if finished:
        assert rerank("run.txt", *AGAIN, model=tiny_model) == 0
    else:
        stop_at_topic_3(collection, tiny_model)
    text = (collection / file).read_text()
    (collection / file).write_text(text.replace(before, after))
    capsys.readouterr()
    assert rerank("run.txt", *AGAIN, "--resume", model=tiny_model) == 2
    assert message in capsys.readouterr().err
    if file == "run.txt":  # a run is known by its content
        (collection / "same.txt").write_text(text)
        assert rerank("./same.txt", *AGAIN, "--resume", model=tiny_model) == 0
        assert len((collection / "out.txt").read_text().splitlines()) == len(text.splitlines())


def test_a_run_that_a_missing_text_has_stopped_goes_on_once_it_is_mended(collection, tiny_model):
    assert rerank("run.txt", "--window", "1", "--output", "whole.txt", model=tiny_model) == 0
    stop_at_topic_3(collection, tiny_model)
    assert rerank("run.txt", *AGAIN, "--resume", model=tiny_model) == 0
    assert (collection / "out.txt").read_bytes() == (collection / "whole.txt").read_bytes()


def test_a_run_that_a_missing_text_has_stopped_goes_on_without_it(collection, tiny_model, capsys):
    with (collection / "run.txt").open("a") as run:
        run.write("9 Q0 a 1 1 bm25\n")
    assert rerank("run.txt", *AGAIN, model=tiny_model) == 2
    assert rerank("run.txt", *AGAIN, "--resume", "--missing", "skip", model=tiny_model) == 0
    assert order("out.txt", "9") == ["a"] and "skipped 1 topics" in capsys.readouterr().err
    assert rerank("run.txt", *AGAIN, "--resume", model=tiny_model) == 2
    assert "missing was 'skip' and is now 'error'" in capsys.readouterr().err


def test_a_model_whose_weights_have_changed_in_its_folder_is_another_one(collection, tiny_model, capsys):
    model = collection / "model"
    shutil.copytree(tiny_model, model)
    assert rerank("run.txt", "--output", "out.txt", model=str(model)) == 0
    weights = {name: tensor * 1.1 for name, tensor in load_file(model / "model.safetensors").items()}
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    assert rerank("run.txt", "--output", "out.txt", "--resume", model=str(model)) == 2
    assert "cannot resume: the base model's weights or tokenizer have changed" in capsys.readouterr().err


def test_a_run_of_another_split_is_an_error_also_where_topics_may_be_missing(collection, tiny_model, capsys):
    (collection / "other.tsv").write_text("1\t\n50\tanother question\n")
    skip = ["run.txt", "--topics", "other.tsv", "--missing", "skip", "--output", "out.txt"]
    before = {p.name for p in collection.iterdir()}
    assert (
        rerank("run.txt", "--topics", "other.tsv", model="nowhere/model") == 2
    )  # said before a model is loaded
    assert capsys.readouterr().err == "qpeft rerank: error: topic '1' of the run has no text in the topics\n"
    assert rerank(*skip, model="nowhere/model") == 2
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
    (collection / "topics.json").write_text((collection / "topics.tsv").read_text())
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
    beside = ["rerank", "run.txt", *flags, "--topics", "topics.json", "--output", "topics"]
    assert main(beside) == 2
    assert "topics: beside it goes topics.json, the input topics.json" in capsys.readouterr().err
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
        assert "weights: the model 0.5, the run's own scores 0.5" in capsys.readouterr().err
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
