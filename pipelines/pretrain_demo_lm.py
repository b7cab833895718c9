"""Train the packaged small language model from scratch on CPU cores, and write its model folder.

    python pipelines/pretrain_demo_lm.py --data DATA --work build/lm --output build/lm/model

A Llama of 2.9 million parameters (5.8 MB in bf16) with its own byte-level BPE; ``--vocabulary``, ``--width``
and ``--layers`` make others. What it reads is described in ``pretrain_data.py`` and ``pretrain_rows.py``, its
starting weights in ``pretrain_init.py``. The learning rate follows the clock: it is constant for half of
``--minutes``, then falls to zero. One free core reads about 4,000 tokens per second. Every few minutes the
run writes the development losses, a checkpoint (safetensors) and the model; after a kill, the same command
with ``--resume`` goes on. A further run (``--start``) goes on with the record of the model that it starts
from.

Matrices are trained with Muon, embeddings and norms with AdamW; weights are fp32, the forward pass is bf16
and compiled (which needs a C++ compiler).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from pretrain_data import BOS, EOS, PAD, prepare
from pretrain_init import plant_copying
from pretrain_measures import Development
from pretrain_rows import Rows
from safetensors import safe_open
from safetensors.torch import load_model, save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

RECORD = "pretraining.jsonl"  # development losses, a line for each time that they were measured
ROWS, LENGTH = 8, 384  # one step: 3,072 tokens; longer rows cost more attention, shorter ones cut passages


def build_model(vocabulary: int, seed: int, width: int = 256, layers: int = 2) -> LlamaForCausalLM:
    """Heads of 64. Copying needs two layers and two heads; a larger model sees fewer tokens in the same
    time.
    """
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            num_key_value_heads=width // 64,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
            attn_implementation="sdpa",
            use_cache=False,
            rope_parameters={"rope_type": "default", "rope_theta": 1e5},
        )
    )
    for layer in model.model.layers:  # each layer starts as the identity
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    plant_copying(model, seed)
    return model


def token_losses(model: LlamaForCausalLM, ids: Tensor, numbers: Tensor) -> Tensor:
    """-log P of each token but the first, shape (rows, length - 1). Tokens see only their own document."""
    mask = (numbers[:, :, None] == numbers[:, None, :]).tril()[:, None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[:, :-1])
    return F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(
        len(ids), -1
    )


class Trainer:
    """Model, its two optimizers, and where the run stands."""

    def __init__(self, model: LlamaForCausalLM, rate: float, matrix_rate: float):
        inner = model.model.layers.parameters()
        matrices = [p for p in inner if p.ndim == 2]
        others = [p for p in model.parameters() if not any(p is m for m in matrices)]
        self.model = model
        self.rates = (matrix_rate, rate)
        self.optimizers = (
            torch.optim.Muon(matrices, lr=matrix_rate, momentum=0.95, weight_decay=0.01, ns_steps=4),
            torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        )
        self.state = {"run": 1, "step": 0, "tokens": 0, "seconds": 0.0}

    def step(self, loss: Tensor, share: float) -> None:
        """One update. ``share`` (0 to 1) of the time spent sets the rate: warm-up, constant, to zero."""
        loss.backward()
        factor = min(1.0, (self.state["step"] + 1) / 60, max(0.0, (1 - share) / 0.5))
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad()

    def save(self, folder: Path) -> None:
        tensors = {f"model/{name}": p for name, p in self.model.named_parameters()}
        for n, optimizer in enumerate(self.optimizers):
            for index, values in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer/{n}/{index}/{name}": value for name, value in values.items()}
        save_file(
            {k: v.detach().contiguous() for k, v in tensors.items()},
            folder / "checkpoint.tmp",
            metadata={"state": json.dumps(self.state)},
        )
        os.replace(folder / "checkpoint.tmp", folder / "checkpoint.safetensors")

    def load(self, folder: Path) -> None:
        with safe_open(folder / "checkpoint.safetensors", "pt") as checkpoint:
            self.state |= json.loads(checkpoint.metadata()["state"])
            tensors = {name: checkpoint.get_tensor(name) for name in checkpoint.keys()}
        self.model.load_state_dict(
            {k[6:]: v for k, v in tensors.items() if k.startswith("model/")}, strict=False
        )
        for n, optimizer in enumerate(self.optimizers):
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                if key.startswith(f"optimizer/{n}/"):
                    _, _, index, name = key.split("/")
                    state.setdefault(int(index), {})[name] = value
            optimizer.load_state_dict(
                {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
            )


def begin_record(record: Path, start: Path | None) -> dict[str, int]:
    """Begin the record of a run: anew, or with the lines of the run that it starts from.

    Returns the number of the run, and the tokens that were read before it.
    """
    record.unlink(missing_ok=True)
    if start is None or not (start / RECORD).exists():
        return {"run": 1, "tokens": 0}
    shutil.copyfile(start / RECORD, record)
    last = json.loads(record.read_text(encoding="utf-8").splitlines()[-1])
    return {"run": last["run"] + 1, "tokens": last["tokens"]}


def export(model: LlamaForCausalLM, work: Path, output: Path) -> None:
    """Write the model (bf16), its tokenizer and its record to ``output``, which changes in one move."""
    fresh = output.with_name(output.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    config = LlamaConfig.from_dict(model.config.to_dict() | {"use_cache": True})
    copy = LlamaForCausalLM(config)
    copy.load_state_dict(model.state_dict())
    copy.to(torch.bfloat16).save_pretrained(fresh)
    (fresh / "generation_config.json").unlink(missing_ok=True)
    shutil.copyfile(work / RECORD, fresh / RECORD)
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    ).save_pretrained(fresh)
    if output.exists():
        old = output.with_name(output.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        output.rename(old)
    for path in fresh.iterdir():
        path.chmod(0o644)
    fresh.rename(output)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with text, questions, squad and nq-qed"
    )
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for token ids, checkpoints and the record"
    )
    parser.add_argument("--output", type=Path, required=True, help="model folder to write")
    parser.add_argument(
        "--minutes", type=float, default=52, help="training time; the learning rate ends at zero"
    )
    parser.add_argument("--vocabulary", type=int, default=6144)
    parser.add_argument("--width", type=int, default=256, help="a multiple of 64, 256 or more")
    parser.add_argument("--layers", type=int, default=2, help="2 or more")
    parser.add_argument("--learning-rate", type=float, default=4e-3, help="of embeddings and norms (AdamW)")
    parser.add_argument("--matrix-learning-rate", type=float, default=0.015, help="of the matrices (Muon)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--start", type=Path, help="model folder with the first weights: a further run, not one from scratch"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --work")
    args = parser.parse_args()

    if args.width % 64 or args.width < 256 or args.layers < 2:
        parser.error("the planted heads take a --width of 256, 320, 384 ... and --layers of 2 or more")
    torch.set_num_threads(args.threads)
    if not (args.work / "data.json").exists():
        prepare(args.data, args.work, args.vocabulary, args.seed)
    development = Development(args.work, (ROWS, LENGTH))
    model = build_model(args.vocabulary, args.seed, args.width, args.layers)
    trainer = Trainer(model, args.learning_rate, args.matrix_learning_rate)
    if args.start:
        load_model(model, args.start / "model.safetensors", strict=False)  # the head is tied
    if args.resume:
        trainer.load(args.work)
    state = trainer.state
    rows = Rows(args.work, LENGTH, args.seed + state["step"])
    run = torch.compile(lambda ids, numbers: token_losses(model, ids, numbers), dynamic=False)
    record = args.work / RECORD
    if not args.resume:
        state |= begin_record(record, args.start)

    last = time.monotonic()
    due = {"print": 0.0, "save": state["seconds"] + 240, "rank": state["seconds"] + 600}
    while state["seconds"] < args.minutes * 60:
        share = state["seconds"] / (args.minutes * 60)
        # Random repetition fades: it sharpens the planted heads, then a little of it keeps them.
        repeat = 0.02 if args.start else max(0.02, 0.3 * (1 - share / 0.15))
        ids, weights, numbers = (torch.from_numpy(x) for x in rows.batch(ROWS, repeat))
        losses = run(ids, numbers)
        weights = weights[:, 1:]
        loss = (losses * weights).sum() / weights.sum()
        trainer.step(loss, share)
        now = time.monotonic()
        state["step"], state["tokens"] = state["step"] + 1, state["tokens"] + ids.numel()
        state["seconds"] += min(now - last, 120)  # a machine that slept does not use up the time
        last = now
        if state["seconds"] > due["print"]:
            due["print"] = state["seconds"] + 30
            print(
                f"{state['seconds']:.0f} s, step {state['step']}, {state['tokens'] / 1e6:.2f} M tokens, "
                f"loss {loss.item():.3f}",
                flush=True,
            )
        ended = state["seconds"] >= args.minutes * 60
        if state["seconds"] > due["save"] or ended:
            ranking = state["seconds"] > due["rank"] or ended
            due["save"] = state["seconds"] + 300
            due["rank"] += 720 if ranking else 0
            measures = development.measure(run, ranking)
            line = {
                "run": state["run"],
                "tokens": state["tokens"],
                "minutes": round(state["seconds"] / 60, 1),
                **measures,
            }
            with record.open("a", encoding="utf-8") as out:
                out.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
            trainer.save(args.work)
            export(model, args.work, args.output)


if __name__ == "__main__":
    main()
