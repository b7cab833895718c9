"""At every moment of saving, one whole checkpoint is there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_training import Killed, run
from tiny_models import tiny_base

from qpeft_rerank.errors import InputError
from qpeft_rerank.models.adapter import load_adapter
from qpeft_rerank.training import checkpoint
from qpeft_rerank.training.checkpoint import has_checkpoint, load_checkpoint, save_checkpoint
from qpeft_rerank.training.loop import Listener
from qpeft_rerank.training.state import State, begin_or_resume, save_state


def trained(steps: int) -> tuple[dict[str, torch.nn.Parameter], torch.optim.Optimizer]:
    weights = {
        "a": torch.nn.Parameter(torch.ones(3)),
        "b.c": torch.nn.Parameter(torch.ones(2, 2)),
        "unused": torch.nn.Parameter(torch.ones(1)),
    }
    optimizer = torch.optim.AdamW(weights.values(), lr=0.1)
    advance(weights, optimizer, steps)
    return weights, optimizer


def advance(weights: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        (weights["a"].pow(2).sum() * (step + 1) + weights["b.c"].sum()).backward()
        optimizer.step()


def test_weights_moments_and_state_come_back_exactly(tmp_path: Path) -> None:
    weights, optimizer = trained(3)
    save_checkpoint(tmp_path / "checkpoint", {"step": 3, "losses": [0.5]}, weights, optimizer)
    again, other = trained(0)
    assert load_checkpoint(tmp_path / "checkpoint", again, other) == {"step": 3, "losses": [0.5]}
    for w, o in ((weights, optimizer), (again, other)):
        advance(w, o, 2)
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_the_loss_scale_of_fp16_comes_back(tmp_path: Path) -> None:
    weights, optimizer = trained(1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(torch.ones(1, requires_grad=True).sum()).backward()
    scaler.load_state_dict({**scaler.state_dict(), "scale": 512.0, "_growth_tracker": 7})
    save_state(tmp_path, State(step=1), {}, weights, optimizer, 0.0, scaler)
    other = torch.amp.GradScaler("cpu")
    assert begin_or_resume(tmp_path, {}, *trained(0), other).step == 1
    assert other.state_dict() == scaler.state_dict() and other.get_scale() == 512.0


def test_a_kill_at_any_moment_of_saving_leaves_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoint"
    weights, optimizer = trained(1)
    save_checkpoint(folder, {"step": 1}, weights, optimizer)
    for step, (owner, name) in enumerate(
        [(checkpoint, "save_file"), (Path, "write_text"), (Path, "rename"), (checkpoint.shutil, "rmtree")], 2
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, lambda *_, **__: (_ for _ in ()).throw(Killed))
            with pytest.raises(Killed):
                save_checkpoint(folder, {"step": step}, weights, optimizer)
        assert has_checkpoint(folder)
        load_checkpoint(folder, *trained(0))
    calls = []

    def second_rename_fails(path: Path, target: Path, rename=Path.rename) -> Path:
        calls.append(path)
        if len(calls) == 2:
            raise Killed
        return rename(path, target)

    before = load_checkpoint(folder, *trained(0))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", second_rename_fails)
        with pytest.raises(Killed):
            save_checkpoint(folder, {"step": 9}, weights, optimizer)
    assert load_checkpoint(folder, *trained(0)) == before
    save_checkpoint(folder, {"step": 10}, weights, optimizer)
    assert load_checkpoint(folder, *trained(0)) == {"step": 10} and [f.name for f in tmp_path.iterdir()] == [
        "checkpoint"
    ]


def test_no_checkpoint_is_an_error(tmp_path: Path) -> None:
    assert not has_checkpoint(tmp_path / "checkpoint")
    with pytest.raises(InputError, match="no checkpoint"):
        load_checkpoint(tmp_path / "checkpoint", *trained(0))


def test_a_damaged_or_foreign_checkpoint_is_an_error_of_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    weights, optimizer = trained(1)
    for damage in (
        lambda: (folder / "state.safetensors").write_bytes(b"x"),
        lambda: (folder / "state.json").write_text("{"),
    ):
        save_checkpoint(folder, {"step": 1}, weights, optimizer)
        damage()
        with pytest.raises(InputError) as error:
            load_checkpoint(folder, *trained(0))
        assert str(folder) in str(error.value) and "\n" not in str(error.value)
    save_checkpoint(folder, {"step": 1}, {"a": weights["a"]}, optimizer)
    with pytest.raises(InputError, match="b.c"):
        load_checkpoint(folder, *trained(0))


def test_a_training_that_ends_early_is_not_taken_for_a_whole_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base, output = tiny_base(), tmp_path / "adapter"

    def kill(step: int, steps: int, loss: float) -> None:
        raise Killed

    with pytest.raises(Killed):  # in its first epoch: the folder holds the adapter before training
        run(base, output, listener=Listener(on_step=kill))
    load_adapter(output, base)
    assert "this training is not finished" in caplog.text
    epochs = run(base, output, resume=True)["epochs"]
    assert epochs == run(base, tmp_path / "undisturbed")["epochs"]
