"""An adapter is a folder that can be copied and shared, and loads only on the model it was trained for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import byte_tokenizer, save_base, tiny_base, tiny_scorer

from qpeft_rerank.errors import AdapterError, InputError, QpeftError
from qpeft_rerank.models.adapter import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    fetch_folder,
    keep_weight,
    load_adapter,
    push_adapter,
    save_adapter,
)
from qpeft_rerank.models.base import BaseModel, load_base
from qpeft_rerank.models.batch import collate
from qpeft_rerank.models.config import LIKELIHOOD_METHODS
from qpeft_rerank.models.likelihood import QueryLikelihood
from qpeft_rerank.passages import Passage
from qpeft_rerank.training.checkpoint import save_checkpoint

PAIRS = [("how far", Passage("d", "Bees", "they fly far")), ("salt", Passage("d", "", "roads of the desert"))]


def scores(scorer: QueryLikelihood) -> torch.Tensor:
    with torch.inference_mode():
        return scorer(collate(scorer.encoder.encode(PAIRS)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_base(tmp_path_factory.mktemp("base") / "llama")


@pytest.fixture(scope="module")
def base(model: str) -> BaseModel:
    return load_base(model, device="cpu")


@pytest.fixture
def adapter(base: BaseModel, tmp_path: Path) -> Path:
    return save_adapter(tmp_path / "adapter", tiny_scorer(base, "qpeft-r", k=3))


@pytest.mark.parametrize("lora_rank", [0, 2])
@pytest.mark.parametrize("method", [*LIKELIHOOD_METHODS, "rankllama"])
def test_a_folder_holds_all_that_a_score_depends_on(
    method: str, lora_rank: int, base: BaseModel, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"passage_tokens": 20}
    if method in LIKELIHOOD_METHODS:
        settings |= {"k": 3, "heads": 4, "placement": "prefix"}
    if method in LIKELIHOOD_METHODS[1:]:
        settings |= {"soft_prompt": True, "prompt_layers": 1, "prompt": "Read on."}
    scorer = tiny_scorer(base, method, lora_rank=lora_rank, **settings)
    save_adapter(tmp_path / "made" / "here", scorer)
    moved = tmp_path / "elsewhere"
    shutil.move(tmp_path / "made" / "here", moved)
    for loaded in (load_adapter(moved, base), load_adapter(str(moved), device="cpu")):
        assert loaded.config == scorer.config and torch.equal(scores(loaded), scores(scorer))
        assert not loaded.training
    files = ["README.md", CONFIG_FILE, WEIGHTS_FILE]
    assert sorted(f.name for f in moved.iterdir()) == files + (["lora"] if scorer.lora else [])


def test_only_the_trained_part_is_kept(base: BaseModel, adapter: Path, tmp_path: Path) -> None:
    names = set(load_file(adapter / WEIGHTS_FILE))
    assert {name.split(".")[0] for name in names} == {"hints", "base_model"}
    frozen = save_adapter(tmp_path / "frozen", tiny_scorer(base, "qpeft-r", hint_table="frozen"))
    assert (frozen / WEIGHTS_FILE).stat().st_size < 15_000


def test_saving_again_replaces_and_leaves_nothing_else(base: BaseModel, adapter: Path) -> None:
    other = tiny_scorer(base, "qpeft-r", seed=5, k=3)
    save_adapter(adapter, other)
    assert (
        torch.equal(scores(load_adapter(adapter, base)), scores(other)) and len(list(adapter.iterdir())) == 3
    )


def test_the_weight_that_training_chose_is_saved_again(
    base: BaseModel, adapter: Path, tmp_path: Path
) -> None:
    assert load_adapter(adapter, base).weight is None
    keep_weight(adapter, 0.3)
    again = save_adapter(tmp_path / "again", load_adapter(adapter, base))
    assert load_adapter(again, base).weight == 0.3


def test_an_adapter_whose_training_was_killed_is_used_with_a_warning(
    base: BaseModel, adapter: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_adapter(adapter, base)
    assert not caplog.records
    scorer = tiny_scorer(base, "qpeft-r", k=3)
    weights = scorer.trained_parameters()
    save_checkpoint(adapter / "checkpoint", {"step": 1}, weights, torch.optim.AdamW(weights.values()))
    load_adapter(adapter, base)
    (record,) = caplog.records
    assert record.levelname == "WARNING" and f"{adapter}: this training is not finished" in record.message


def test_an_adapter_of_an_fp32_model_loads_on_the_same_in_bf16(
    model: str, adapter: Path, base: BaseModel
) -> None:
    half = load_adapter(adapter, dtype="bfloat16", device="cpu")
    assert torch.allclose(scores(half), scores(load_adapter(adapter, base)), atol=0.2)


def test_the_base_model_may_lie_elsewhere(model: str, adapter: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(model, tmp_path / "moved")
    config = json.loads((adapter / CONFIG_FILE).read_text())
    config["base_model"]["name"] = "/nowhere/at/all"
    (adapter / CONFIG_FILE).write_text(json.dumps(config))
    with pytest.raises(InputError, match="/nowhere/at/all"):
        load_adapter(adapter, device="cpu")
    assert load_adapter(adapter, model=str(moved), device="cpu").base.name == str(moved)


def test_another_base_model_or_tokenizer_is_an_error_unless_forced(adapter: Path) -> None:
    for other, what in (
        (tiny_base(seed=9), "another base model"),
        (tiny_base(tokenizer=byte_tokenizer(bos=None)), "another tokenizer"),
    ):
        with pytest.raises(AdapterError, match=what) as error:
            load_adapter(adapter, other)
        assert str(adapter) in str(error.value)
        assert scores(load_adapter(adapter, other, force=True)).isfinite().all()


def test_force_does_not_bend_shapes(adapter: Path) -> None:
    with pytest.raises(AdapterError, match="shape"):
        load_adapter(adapter, tiny_base(hidden_size=64), force=True)


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps({**config, **changes}))


def edit_weights(folder: Path, drop: str | None = None, **changes: torch.Tensor) -> None:
    weights = load_file(folder / WEIGHTS_FILE) | changes
    weights.pop(drop, None)
    save_file(weights, folder / WEIGHTS_FILE)


DAMAGE = {
    "no config": lambda f: (f / CONFIG_FILE).unlink(),
    "config cut": lambda f: (f / CONFIG_FILE).write_text((f / CONFIG_FILE).read_text()[:40]),
    "config not UTF-8": lambda f: (f / CONFIG_FILE).write_bytes(b"\xff\xfe"),
    "config a list": lambda f: (f / CONFIG_FILE).write_text("[]"),
    "no settings": lambda f: edit_config(f, settings=None),
    "base model a text": lambda f: edit_config(f, base_model="name"),
    "base model without name": lambda f: edit_config(f, base_model={"name": None}),
    "unknown setting": lambda f: edit_config(f, settings={"colour": "blue"}),
    "impossible setting": lambda f: edit_config(f, settings={"method": "qpeft-r", "k": 0}),
    "other method": lambda f: edit_config(f, settings={"method": "qpeft-a"}),
    "no weights": lambda f: (f / WEIGHTS_FILE).unlink(),
    "weights cut": lambda f: (f / WEIGHTS_FILE).write_bytes((f / WEIGHTS_FILE).read_bytes()[:-20]),
    "weights empty": lambda f: (f / WEIGHTS_FILE).write_bytes(b""),
    "weight missing": lambda f: edit_weights(f, drop="hints.mlp.0.bias"),
    "weight too many": lambda f: edit_weights(f, extra=torch.zeros(1)),
    "weight of wrong shape": lambda f: edit_weights(f, **{"hints.mlp.0.bias": torch.zeros(7)}),
    "no fingerprint": lambda f: edit_weights(f, drop="base_model.fingerprint"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_an_error_of_one_line_that_names_it(
    damage: str, adapter: Path, base: BaseModel
) -> None:
    DAMAGE[damage](adapter)
    with pytest.raises(AdapterError) as error:
        load_adapter(adapter, base)
    assert str(adapter) in str(error.value) and "\n" not in str(error.value)


def test_a_peft_adapter_is_called_what_it_is(base: BaseModel, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    get_peft_model(tiny_base().model, LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path)
    with pytest.raises(AdapterError, match="peft adapter of type LORA"):
        load_adapter(tmp_path, base)


def test_damaged_weights_are_found_before_the_base_model_is_loaded(adapter: Path) -> None:
    edit_config(adapter, base_model={"name": "/nowhere/at/all"})
    (adapter / WEIGHTS_FILE).write_bytes(b"")
    with pytest.raises(AdapterError, match=WEIGHTS_FILE):
        load_adapter(adapter)


def test_a_failed_save_leaves_the_folder_as_it_was(
    base: BaseModel, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {f.name: f.read_bytes() for f in adapter.iterdir()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qpeft_rerank.models.adapter.save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_adapter(adapter, tiny_scorer(base, "qpeft-a"))
    assert {f.name: f.read_bytes() for f in adapter.iterdir()} == before


def test_the_model_card_has_the_form_of_the_hub(adapter: Path, base: BaseModel) -> None:
    from huggingface_hub import ModelCard

    save_adapter(adapter, tiny_scorer(base, "qpeft-r"), {"collection": "bees", "epoch": 3})
    card = ModelCard.load(adapter / "README.md")
    assert card.data.library_name == "qpeft-rerank" and card.data.base_model == base.name
    assert "* epoch: 3" in card.text and "qpeft rerank --adapter" in card.text


def test_an_adapter_is_pushed_to_the_hub_and_fetched_by_name(
    adapter: Path, base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub: dict[str, Path] = {}

    class Api:
        def create_repo(self, name: str, private: bool, exist_ok: bool) -> None:
            assert private and exist_ok

        def upload_folder(
            self, repo_id: str, folder_path: str, revision: str | None, allow_patterns: list[str]
        ) -> str:
            hub[repo_id] = Path(shutil.copytree(folder_path, tmp_path / "hub"))
            return f"https://hub/{repo_id}"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, revision, allow_patterns: str(hub[name])
    )
    assert push_adapter(adapter, "someone/reranker", private=True) == "https://hub/someone/reranker"
    shutil.rmtree(adapter)
    assert scores(load_adapter("someone/reranker", base)).isfinite().all()


def test_only_adapter_folders_are_pushed(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="no adapter folder"):
        push_adapter(tmp_path, "someone/reranker")


def test_what_the_hub_says_no_to_is_an_error_of_one_line(
    adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub.errors import RepositoryNotFoundError

    class Api:
        def create_repo(self, *_: Any, **__: Any) -> None:
            import httpx

            answer = httpx.Response(401, request=httpx.Request("POST", "https://hub"))
            raise RepositoryNotFoundError("401 Client Error\nInvalid username or password.", response=answer)

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    with pytest.raises(QpeftError) as error:
        push_adapter(adapter, "someone/reranker")
    assert "someone/reranker" in str(error.value) and "\n" not in str(error.value)
    for name in ("no-such-organisation/no-such-adapter", "not a name", "/no/such/folder"):
        with pytest.raises(InputError, match="no folder"):
            fetch_folder(name)
