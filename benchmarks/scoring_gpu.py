"""Benchmark 2: pairs per second on a GPU, as a share of the rate that the same GPU multiplies matrices with.

Models have the shapes of known ones and random weights. The share is the operations that the pairs need, each
run once and without padding, divided by the time and by the rate of a large bf16 matrix product measured in
the same run. Counted are two operations for each weight of the blocks and token, those of causal attention,
and the output layer for the tokens of the question alone. Hints are placed in front of the passage by
default, where no passage can be shared.

    python benchmarks/scoring_gpu.py
    python benchmarks/scoring_gpu.py --models 7b --run run.bm25.txt --collection squad.toml --split test
    python benchmarks/scoring_gpu.py --device cpu --layers 1 --models 0.5b --topics 1 --depth 4 --matmul 512
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from candidates import Pairs, made_pairs, run_pairs
from plain_loop import plain_scores
from random_models import METHODS, SHAPES, random_base, random_reranker
from side_by_side import PeakMemory, arguments, median, ratio, report, time_in_turn, use_threads

from qpeft_rerank.reranker import Reranker


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], "scoring_gpu", repeats=3)
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=["0.5b", "1.5b", "7b"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["qpeft-r", "qpeft-a"])
    parser.add_argument("--placement", choices=("suffix", "prefix"), default="prefix", help="of the hints")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--layers", type=int, help="layers, fewer than the shape's for a trial")
    parser.add_argument("--topics", type=int, default=50)
    parser.add_argument("--depth", type=int, default=100, help="candidates of each topic")
    parser.add_argument("--run", type=Path, help="score this run's candidates (default: made ones)")
    parser.add_argument("--collection", type=Path, help="the run's collection file")
    parser.add_argument("--split", default="test")
    parser.add_argument("--plain-batches", type=int, nargs="+", default=[4, 16, 32])
    parser.add_argument("--plain-topics", type=int, default=5, help="topics that the plain loop scores")
    parser.add_argument("--matmul", type=int, default=8192, help="rows and columns of the measured product")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print(
            "scoring_gpu: this machine has no CUDA device; --device cpu tries the code out", file=sys.stderr
        )
        raise SystemExit(2)
    if (options.run is None) != (options.collection is None):
        parser.error("--run and --collection go together")
    use_threads(options)
    if options.run is None:
        pairs = made_pairs(options.topics, options.depth)
    else:
        pairs = run_pairs(options.run, options.collection, options.split, options.topics, options.depth)
    rows = [row for model in options.models for row in compare(model, pairs, options)]
    report("Scoring on a GPU", rows, options)


def compare(model: str, pairs: Pairs, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of one model: one for each method."""
    base = random_base(model, "bfloat16", options.device, options.layers)
    rows = []
    for method in options.methods:
        row = measure(random_reranker(base, method, options.placement), pairs, options)
        rows.append({"model": model, "method": method, **row})
        print(", ".join(f"{key} {value}" for key, value in rows[-1].items() if key != "seconds"), flush=True)
    return rows


def measure(reranker: Reranker, pairs: Pairs, options: argparse.Namespace) -> dict[str, Any]:
    """Time and memory of both ways, and the GPU's rate."""
    some = pairs[: options.plain_topics * options.depth]
    contenders: dict[str, Callable[[], object]] = {"ours": lambda: reranker.score(pairs)}
    for size in options.plain_batches:
        contenders[f"plain {size}"] = lambda size=size: plain_scores(reranker.scorer, some, size)
    seconds = time_in_turn(contenders, options.repeats)
    best = min(options.plain_batches, key=lambda size: median(seconds[f"plain {size}"]))
    with PeakMemory(options.device) as ours:
        contenders["ours"]()
    with PeakMemory(options.device) as plain:
        contenders[f"plain {best}"]()
    rate = matmul_rate(options.matmul, options.device)
    time = median(seconds["ours"])
    per_second, plain_per_second = len(pairs) / time, len(some) / median(seconds[f"plain {best}"])
    achieved = operations(reranker, pairs) / time
    return {
        "pairs/s": round(per_second, 1),
        "TFLOP/s": round(achieved / 1e12, 2),
        "matmul TFLOP/s": round(rate / 1e12, 2),
        "share": round(achieved / rate, 3),
        "plain pairs/s": round(plain_per_second, 1),
        "plain's batch": best,
        "times plain": ratio(per_second, plain_per_second),
        "peak MiB": ours.mib,
        "plain peak MiB": plain.mib,
        "seconds": seconds,
    }


def matmul_rate(size: int, device: str) -> float:
    """Operations per second of a large square bf16 matrix product, the best of several."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = time_in_turn({"matmul": lambda: a @ b}, 10)["matmul"]
    return 2 * size**3 / min(seconds)


def operations(reranker: Reranker, pairs: Pairs) -> float:
    """Operations that scoring these pairs needs: see the top of this file."""
    model = reranker.scorer.model
    config = model.config
    head = model.get_output_embeddings()
    outside = {id(p) for module in (model.get_input_embeddings(), head) for p in module.parameters()}
    blocks = sum(p.numel() for p in model.parameters() if p.dim() == 2 and id(p) not in outside)
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    total = 0.0
    for pair in reranker.scorer.encoder.encode(pairs):
        attention = 2 * 2 * width * pair.length**2 / 2 * config.num_hidden_layers
        total += (
            2 * blocks * pair.length + attention + 2 * config.hidden_size * config.vocab_size * pair.scored
        )
    return total


if __name__ == "__main__":
    main()
