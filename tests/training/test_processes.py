"""Training in several processes, and what one process may train under."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from small_training import changed, run
from tiny_models import save_base, tiny_base

from qpeft_rerank.errors import InputError
from qpeft_rerank.models.adapter import WEIGHTS_FILE, load_adapter
from qpeft_rerank.models.base import BaseModel, load_base


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return tiny_base()


def test_bf16_autocast_trains_and_one_process_keeps_to_one_precision(base: BaseModel, tmp_path: Path) -> None:
    from accelerate.state import AcceleratorState

    run(base, tmp_path / "first", changed(epochs=1), dev=None)
    with pytest.raises(InputError, match="mixed_precision"):
        run(base, tmp_path / "adapter", changed(epochs=1, mixed_precision="bf16"))
    AcceleratorState._reset_state(reset_partial_state=True)
    record = run(base, tmp_path / "adapter", changed(epochs=1, mixed_precision="bf16"))
    assert all(math.isfinite(e["dev_loss"]) for e in record["epochs"])
    AcceleratorState._reset_state(reset_partial_state=True)


SCRIPT = """
import json, os, sys
from pathlib import Path
import torch
import small_training
from qpeft_rerank.models.base import load_base
torch.set_num_threads(1)
folder = Path(sys.argv[1])
base = load_base(str(folder / "model"), device="cpu")
training = small_training.changed(epochs=2, batch_size=1)
record = small_training.run(base, folder / "adapter", training, settings={"lora_rank": 2})
alone = small_training.changed(epochs=2, batch_size=1, in_batch=False)
base = load_base(str(folder / "model"), device="cpu")
small_training.run(base, folder / "two", alone, dev=None, method="soft-prompt")
(folder / f"record.{os.environ['RANK']}").write_text(json.dumps(record["epochs"]))
"""


@pytest.mark.slow
def test_two_processes_train_one_adapter(tmp_path: Path) -> None:
    save_base(tmp_path / "model")
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
        "OMP_NUM_THREADS": "1",
    }
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        str(tmp_path / "script.py"),
    ]
    done = subprocess.run(
        [*command, str(tmp_path)], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    records = [json.loads((tmp_path / f"record.{rank}").read_text()) for rank in (0, 1)]
    assert records[0] == records[1] and [e["epoch"] for e in records[0]] == [0, 1, 2]
    assert records[0][2]["dev_loss"] < records[0][0]["dev_loss"]
    # Five topics in steps of two: in the last one, one process has none, and its share is none (counted in
    # full, it would make a difference of 0.008; AdamW makes one of rounding too).
    one = changed(epochs=2, batch_size=2, in_batch=False)
    base = load_base(str(tmp_path / "model"), device="cpu")
    run(base, tmp_path / "one", one, dev=None, method="soft-prompt")
    ours, theirs = (load_file(tmp_path / folder / WEIGHTS_FILE) for folder in ("two", "one"))
    assert max((ours[name] - theirs[name]).abs().max().item() for name in theirs) < 1e-3
    loaded = load_adapter(tmp_path / "adapter", device="cpu")
    assert (
        loaded.config.method == "qpeft-a" and loaded.lora and (tmp_path / "adapter" / "run.dev.txt").exists()
    )
