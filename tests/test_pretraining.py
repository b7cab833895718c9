"""The training of the packaged language model: what a checkpoint, a record and a row of it hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from qpeft_rerank.models.config import AdapterConfig
from qpeft_rerank.models.inputs import PairEncoder
from qpeft_rerank.passages import Passage
from qpeft_rerank.topics import read_topics

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "qpeft_rerank" / "demo" / "model"


@pytest.fixture(autouse=True)
def pipelines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "pipelines"))


@pytest.mark.parametrize(("width", "layers"), [(256, 4), (256, 2), (320, 6)])
def test_a_fresh_model_of_any_shape_copies(width: int, layers: int) -> None:
    from pretrain_demo_lm import build_model, token_losses

    model = build_model(vocabulary=512, seed=0, width=width, layers=layers)
    assert (model.config.hidden_size, len(model.model.layers)) == (width, layers)
    once = torch.randint(3, 512, (4, 30), generator=torch.Generator().manual_seed(0))
    ids = torch.cat([once, once], dim=1)
    with torch.no_grad():
        losses = token_losses(model, ids, torch.zeros_like(ids))
    assert losses[:, 31:].mean() < losses[:, :29].mean() - 1  # nats: the second time is foreseen


def test_a_checkpoint_is_one_file_with_weights_optimizers_and_state(tmp_path: Path) -> None:
    from pretrain_demo_lm import Trainer, build_model, token_losses

    trained, fresh = (Trainer(build_model(vocabulary=64, seed=seed), 1e-3, 1e-3) for seed in (0, 1))
    ids = torch.arange(24).view(2, 12)
    trained.step(token_losses(trained.model, ids, torch.zeros_like(ids)).mean(), share=0.1)
    trained.state |= {"run": 3, "step": 7, "tokens": 24, "seconds": 2.5}
    trained.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]
    fresh.load(tmp_path)
    assert fresh.state == trained.state
    for name, values in trained.model.state_dict().items():
        assert torch.equal(values, fresh.model.state_dict()[name]), name
    for one, other in zip(trained.optimizers, fresh.optimizers, strict=True):
        kept = other.state_dict()["state"]
        for index, values in one.state_dict()["state"].items():
            assert all(torch.equal(value, kept[index][name]) for name, value in values.items())


def test_a_further_run_goes_on_with_the_record_and_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from plot_pretraining import LOSSES, draw
    from pretrain_demo_lm import RECORD, begin_record

    first, further = tmp_path / "first" / RECORD, tmp_path / "further" / RECORD
    lines = []
    for record, start in ((first, None), (further, first.parent)):
        record.parent.mkdir()
        record.write_text("of an earlier try\n")
        begun = begin_record(record, start)
        lines.append({**begun, **dict.fromkeys(LOSSES, 2.0), "tokens": begun["tokens"] + 3072})
        with record.open("a") as out:
            out.write(json.dumps(lines[-1]) + "\n")
    assert [(line["run"], line["tokens"]) for line in lines] == [(1, 3072), (2, 6144)]
    assert [json.loads(line) for line in further.read_text().splitlines()] == lines
    draw(further, tmp_path / "curves.png")
    on_all = tmp_path / "losses.jsonl"
    models = [{"layers": n, "tokens": 3072, "squad-dev": 2.0, "nq-qed-dev": 1.9} for n in (2, 2, 4)]
    on_all.write_text("".join(json.dumps(model) + "\n" for model in models))
    draw(MODEL / RECORD, tmp_path / "packaged.png", on_all)
    assert (tmp_path / "packaged.png").stat().st_size > 1000
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_what_it_reads_is_what_the_reranker_asks() -> None:
    from pretrain_data import with_title
    from pretrain_rows import Layout

    layout = Layout(Tokenizer.from_file(str(MODEL / "tokenizer.json")))
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    query, passage = "who wrote it?", Passage("d1", "A title", "Some text, <s> and more of it. " * 100)
    encoder = PairEncoder(tokenizer, AdapterConfig(method="hard-prompt"))
    (asked,) = encoder.encode([(query, passage)])
    texts = [with_title(passage.title, passage.text), query]
    ids, question = tokenizer(texts, add_special_tokens=False, split_special_tokens=True).input_ids
    assert layout.document(ids, [question]).ids.tolist() == asked.before + asked.after
    hinted = PairEncoder(tokenizer, AdapterConfig(method="qpeft-r"))
    assert (layout.hints, layout.hints_end) == (hinted.hint_head, hinted.hint_tail)


def test_dev_passages_are_chosen_by_the_same_rule_everywhere(tmp_path: Path) -> None:
    from pretrain_data import read_collection
    from split_dev import is_dev, split

    data, docids = tmp_path / "data", [f"d{n}" for n in range(100)]
    (data / "corpus").mkdir(parents=True)
    passages = [{"id": docid, "title": "", "contents": f"text of {docid}"} for docid in docids]
    (data / "corpus" / "docs.jsonl").write_text("".join(json.dumps(p) + "\n" for p in passages))
    for name, asked in (("train", docids[2:]), ("test", docids[:2])):
        (data / f"topics.{name}.tsv").write_text("".join(f"q{d}\twhat is {d}\n" for d in asked))
        (data / f"qrels.{name}.txt").write_text("".join(f"q{d} 0 {d} 1\n" for d in asked))
    split(data, tmp_path / "split")
    dev = read_topics(tmp_path / "split" / "topics.dev.tsv")
    read = read_collection(data)
    assert 0 < len(dev) < 30 and set(dev) == {f"q{d}" for d in docids[2:] if is_dev(d)}
    assert sorted(q for pair in read.dev for q in pair.questions) == sorted(dev.values())
    assert not {pair.passage for pair in read.dev} & set(read.passages)
