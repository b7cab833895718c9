"""The verbs of the dense first stage: vectors, index, run; and one line for everything that can be wrong."""

import json

import pytest
from tiny_models import save_base

from qpeft_rerank.cli.__main__ import main
from qpeft_rerank.dense.encoder import open_encoder
from qpeft_rerank.trec import load_run

TOPICS = {"1": "what do bees eat", "2": "who paints walls", "007": "a dance"}
PASSAGES = {
    "a": ("Bees", "Bees eat nectar."),
    "b": ("", "A waggle dance."),
    "c": ("Walls", "Painters paint walls."),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a collection of three passages and a model."""
    monkeypatch.chdir(tmp_path)
    save_base(tmp_path / "model")
    records = [{"id": i, "title": title, "contents": text} for i, (title, text) in PASSAGES.items()]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "topics.tsv").write_text("".join(f"{qid}\t{text}\n" for qid, text in TOPICS.items()))
    (tmp_path / "small.toml").write_text('corpus = "corpus.jsonl"\n[topics]\ntest = "topics.tsv"\n')
    return tmp_path


def encode(*flags):
    model = ["--model", "model", "--dtype", "float32"]
    return main(["encode", "-c", "small.toml", *model, "--output", "vectors", *flags])


def test_vectors_index_and_run_follow_one_another(folder, capsys):
    assert encode("--shard-passages", "2", "--passage-tokens", "9") == 0
    assert main(["dense-index", "vectors", "--output", "index"]) == 0
    capsys.readouterr()
    assert main(["dense", "-c", "small.toml", "--index", "index", "--hits", "2"]) == 0
    (folder / "run.txt").write_text(capsys.readouterr().out)
    run = load_run(folder / "run.txt")
    assert list(run) == list(TOPICS)
    encoder = open_encoder("model", settings={"passage_tokens": 9}, device="cpu", dtype="float32")
    from qpeft_rerank.corpora import read_corpus

    passages = list(read_corpus("corpus.jsonl"))
    scores = encoder.encode_queries(list(TOPICS.values())) @ encoder.encode_passages(passages).T
    for row, qid in zip(scores, TOPICS):
        best = sorted(zip(row.tolist(), PASSAGES), reverse=True)[:2]
        assert [doc.docid for doc in run[qid].docs] == [docid for _, docid in best]
        assert [doc.score for doc in run[qid].docs] == pytest.approx([score for score, _ in best], abs=1e-5)


def test_topics_that_find_nothing_are_counted(folder, capsys):
    assert encode() == 0 and main(["dense-index", "vectors", "--output", "index"]) == 0
    (folder / "blank.tsv").write_text("1\tbees\n2\t\n")
    capsys.readouterr()
    assert main(["dense", "-c", "small.toml", "--index", "index", "--topics", "blank.tsv"]) == 0
    out, err = capsys.readouterr()
    assert {line.split()[0] for line in out.splitlines()} == {"1"}
    assert "1 of 2 topics found nothing, such as '2'" in err


def test_shards_of_two_machines_make_one_index(folder, capsys):
    assert encode("--shard-passages", "1", "--shard", "1", "--of", "2") == 0
    assert "vectors of 1 of 3 passages, shard 1 of 2" in capsys.readouterr().err
    assert main(["dense-index", "vectors", "--output", "index"]) == 2
    assert encode("--shard-passages", "1", "--shard", "0", "--of", "2") == 0
    assert main(["dense-index", "vectors", "--output", "index", "--kind", "hnsw"]) == 0
    assert (folder / "index" / "docid").read_text().split() == list(PASSAGES)


@pytest.mark.parametrize(
    "flags, total, kept",
    [((), 3, 0), (("--shard", "1", "--of", "2"), 1, 0), (("--resume",), 3, 2)],
    ids=["all", "every-second", "resumed"],
)
def test_progress_knows_how_much_there_is_to_do(folder, monkeypatch, flags, total, kept):
    from qpeft_rerank.cli import progress

    bars = []

    def shown(*arguments):
        bars.append(progress_bar(*arguments))
        return bars[-1]

    progress_bar = progress.progress_bar
    monkeypatch.setattr(progress, "progress_bar", shown)
    if kept:
        assert encode("--shard-passages", "2") == 0
        for name in ("vectors-00001.npy", "shards-0-of-1.json"):
            (folder / "vectors" / name).unlink()
    assert encode("--shard-passages", "2", *flags) == 0
    assert (bars[-1].total, bars[-1].n, bars[-1].initial) == (total, total, kept)


@pytest.mark.parametrize("verb", ["encode", "adapt", "index"])
def test_a_split_is_not_offered_where_there_is_none(folder, capsys, verb):
    assert main([verb, "-c", "small.toml", "--split", "test"]) == 2
    assert "unrecognized argument: --split" in capsys.readouterr().err


def test_an_index_of_quantised_vectors_is_searched_with_the_same_bits(folder, monkeypatch):
    assert encode() == 0 and main(["dense-index", "vectors", "--output", "index"]) == 0
    description = json.loads((folder / "index" / "dense.json").read_text())
    description["encoder"]["quantization"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "index" / "dense.json").write_text(json.dumps(description))
    asked = []

    def opened(**arguments):
        asked.append(arguments.pop("quantize"))
        return open_encoder(**arguments)

    monkeypatch.setattr("qpeft_rerank.dense.encoder.open_encoder", opened)
    assert main(["dense", "-c", "small.toml", "--index", "index", "--output", "run.txt"]) == 0
    assert asked == ["4bit"]


def test_an_index_of_another_program_takes_its_encoder_from_the_flags(folder, capsys):
    assert encode() == 0 and main(["dense-index", "vectors", "--output", "index"]) == 0
    for name in ("dense.json", "probe.npy"):
        (folder / "index" / name).unlink()
    search = ["dense", "-c", "small.toml", "--index", "index", "--output", "run.txt"]
    assert main(search) == 2 and "name it with --model" in capsys.readouterr().err
    assert main([*search, "--model", "model"]) == 0


WRONG = [
    (["encode", "--model", "model", "--output", "v"], "no corpus given"),
    (["encode", "-c", "small.toml", "--model", "model"], "no output given"),
    (["encode", "-c", "small.toml", "--output", "v"], "no encoder given"),
    (["encode", "--corpus", "no.jsonl", "--model", "model", "--output", "v"], "no.jsonl"),
    (
        ["encode", "-c", "small.toml", "--model", "model", "--output", "v", "--shard", "2", "--of", "2"],
        "from 0",
    ),
    (["encode", "-c", "small.toml", "--model", "model", "--output", "v", "--template", "llara"], "<s9>"),
    (["encode", "-c", "small.toml", "--adapter", "model", "--output", "v"], "it is a model"),
    (
        ["encode", "-c", "small.toml", "--adapter", "a", "--lora", "b", "--output", "v"],
        "--adapter and --lora",
    ),
    (["dense-index", "--output", "i"], "no vectors given"),
    (["dense-index", "model", "--output", "i"], "no folder of vectors"),
    (["dense", "-c", "small.toml"], "no index given"),
    (["dense", "-c", "small.toml", "--index", "model"], "no dense index"),
    (["adapt", "--model", "model", "--output", "m"], "no text given"),
    (["adapt", "no.txt", "--model", "model", "--output", "m"], "no.txt"),
    (["adapt", "corpus.jsonl", "--output", "m"], "no model given"),
    (["adapt", "corpus.jsonl", "--model", "model", "--output", "m", "--seed", "4294967296"], "--seed"),
    (["rerank", "-c", "small.toml", "run.txt", "--model", "model", "--method", "repllama"], "an encoder"),
]


@pytest.mark.parametrize("arguments, word", WRONG, ids=[" ".join(a) for a, _ in WRONG])
def test_what_is_wrong_is_one_line(folder, capsys, arguments, word):
    (folder / "run.txt").write_text("1 Q0 a 1 1.0 x\n")
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and word in err


def test_adapt_writes_a_model_that_train_and_encode_take(folder, capsys):
    adapt = ["adapt", "-c", "small.toml", "--model", "model", "--output", "adapted", "--batch-size", "2"]
    assert main(adapt) == 0
    err = capsys.readouterr().err
    assert "epoch 1: loss" in err and "epoch 0" not in err, "nothing is measured before the first step"
    assert main([*adapt, "--resume"]) == 0
    assert "adapted holds this finished training: nothing is left to do" in capsys.readouterr().err
    (folder / "qrels.txt").write_text("1 0 a 1\n2 0 c 1\n")
    (folder / "run.txt").write_text(
        "".join(f"{q} Q0 {d} 1 {s} x\n" for q in "12" for s, d in enumerate("abc"))
    )
    train = ["train", "run.txt", "--topics", "topics.tsv", "--qrels", "qrels.txt", "--corpus", "corpus.jsonl"]
    train += ["--method", "repllama", "--model", "adapted", "--output", "encoder", "--epochs", "1"]
    assert main(train) == 0
    assert main(["encode", "-c", "small.toml", "--adapter", "encoder", "--output", "vectors"]) == 0
    settings = json.loads((folder / "vectors" / "manifest.json").read_text())["settings"]["encoder"][
        "settings"
    ]
    assert settings["query_marks"][0] == "<s9>"
