"""Benchmark 4: time and peak memory of one training step, against a plain loop.

A step is forward, backward and AdamW over the pairs of some topics, each with a hard negative and the other
topics' passages. The plain loop (`plain_loop.py`) runs a positive again for each of its negatives and keeps
logits for every position. Each way runs in a process of its own, so that its memory is its own.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --models tiny --batch-size 2 --repeats 2
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from side_by_side import PeakMemory, arguments, median, ratio, report, run_process, time_in_turn, use_threads

WAYS = ("ours", "ours, activations recomputed", "plain")
MODELS = ("tiny", "packaged", "12-layer", "0.5b", "1.5b", "7b")


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], "training_step", repeats=3)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["tiny", "packaged", "12-layer"])
    parser.add_argument("--methods", nargs="+", default=["qpeft-r", "qpeft-a"])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=8, help="topics of a step")
    parser.add_argument("--words", type=int, default=100, help="words of a passage, about")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # the process of one way
    options = parser.parse_args()
    if options.here:
        use_threads(options)
        print(json.dumps(measure(options)))
        return
    rows = [compare(model, method, options) for model in options.models for method in options.methods]
    report("One training step", rows, options)


def compare(model: str, method: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row: each way in its own process."""
    shared = [f"--{name}={getattr(options, name.replace('-', '_'))}" for name in ("dtype", "device", "words")]
    shared += [f"--batch-size={options.batch_size}", f"--repeats={options.repeats}"]
    shared += [f"--threads={options.threads}"] if options.threads else []
    seen = {}
    for way in options.ways:
        one = ["--models", model, "--methods", method, "--ways", way, "--here"]
        finished = run_process([sys.executable, __file__, *one, *shared])
        seen[way] = json.loads(finished.output.splitlines()[-1])
    row: dict[str, Any] = {"model": model, "method": method, "pairs": seen[options.ways[0]]["pairs"]}
    for way in options.ways:
        row |= {f"{way}: s": median(seen[way]["seconds"]), f"{way}: MiB": seen[way]["mib"]}
    if "ours" in seen and "plain" in seen:
        row["times faster"] = ratio(row["plain: s"], row["ours: s"])
        row["loss difference"] = float(f"{abs(seen['ours']['loss'] - seen['plain']['loss']):.1e}")
    row["seen"] = seen
    print(", ".join(f"{key} {value}" for key, value in row.items() if key != "seen"), flush=True)
    return row


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Time and memory of one way, here."""
    import torch
    from candidates import made_pairs
    from plain_loop import plain_step_loss
    from random_models import random_base, random_reranker

    from qpeft_rerank.training.activations import activations_recomputed, recomputable_layers
    from qpeft_rerank.training.config import TrainingConfig
    from qpeft_rerank.training.step import PairLosses, step_loss

    (way,) = options.ways
    reranker = random_reranker(
        random_base(options.models[0], options.dtype, options.device), options.methods[0]
    )
    scorer, training = reranker.scorer, TrainingConfig()
    scorer.train()
    if options.methods[0] == "qpeft-a":
        scorer.hints.attention.dropout = 0.0  # so that both ways have the same loss
    step = made_step(made_pairs(options.batch_size, 2, options.words))
    losses = PairLosses(scorer)
    optimizer = torch.optim.AdamW(scorer.trained_parameters().values(), lr=0.0)
    found: list[float] = []

    def loss() -> torch.Tensor:
        if way == "plain":
            return plain_step_loss(scorer, step, training.margin)
        return step_loss(losses, scorer, step, training, reranker.limits)

    def one_step() -> None:
        optimizer.zero_grad()
        with activations_recomputed(layers):
            value = loss()
            value.backward()
        optimizer.step()
        found.append(value.item())

    layers = recomputable_layers(scorer.model) if "recomputed" in way else []
    if layers:  # as `qpeft train` does it: what is computed again must not add to a cache
        scorer.can_share = False
    one_step()  # warm up: AdamW takes its memory now
    with PeakMemory(options.device) as memory:
        one_step()
    seconds = time_in_turn({"step": one_step}, options.repeats, warm_up=False)["step"]
    return {"seconds": seconds, "mib": memory.mib, "loss": found[-1], "pairs": len(step.pairs)}


def made_step(pairs: list) -> Any:
    """A step of topics with a positive and a hard negative, every other passage a negative too."""
    from qpeft_rerank.training.groups import Group, TrainingTopic, step_pairs

    class Made(dict):
        name = "made passages"

        def get(self, docids: Any) -> Any:
            return {docid: self[docid] for docid in docids}

    groups = []
    for number in range(0, len(pairs), 2):
        (query, good), (_, bad) = pairs[number : number + 2]
        topic = TrainingTopic(str(number), query, [good.docid], [bad.docid])
        groups.append(Group(topic, good.docid, [bad.docid]))
    return step_pairs(groups, Made({passage.docid: passage for _, passage in pairs}), in_batch=True)


if __name__ == "__main__":
    main()
