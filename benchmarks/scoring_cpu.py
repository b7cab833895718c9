"""Benchmark 1: pairs per second of query-likelihood scoring on a CPU, against what one would use instead.

The contenders are the published code's loop (`plain_loop.py`, its best batch size counts) and
sentence-transformers' CrossEncoder with a BERT of the same layers, width and weights. Each question has
passages of its own, so that nothing is gained by sharing them; with --passages, topics draw their candidates
from a collection of so many (see `passage_sharing.py` for more of that).

    python benchmarks/scoring_cpu.py
    python benchmarks/scoring_cpu.py --models tiny --topics 1 --depth 20 --repeats 3
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from candidates import Pairs, made_pairs
from plain_loop import plain_scores
from random_models import DEMO, METHODS, NAMES, parameters, random_base, random_cross_encoder, random_reranker
from side_by_side import arguments, median, ratio, report, time_in_turn, use_threads

from qpeft_rerank.models.base import BaseModel


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], "scoring_cpu")
    parser.add_argument("--models", nargs="+", choices=NAMES, default=["tiny", DEMO, "12-layer"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["qpeft-r", "qpeft-a"])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--placement", choices=("suffix", "prefix"), default="suffix", help="of the hints")
    parser.add_argument("--topics", type=int, default=5)
    parser.add_argument("--depth", type=int, default=100, help="candidates of each topic")
    parser.add_argument("--words", type=int, default=100, help="words of a passage, about")
    parser.add_argument("--passages", type=int, help="in all (default: each pair has its own)")
    parser.add_argument("--plain-batches", type=int, nargs="+", default=[4, 16, 32])
    parser.add_argument("--layers", type=int, help="layers of the models with random weights")
    parser.add_argument("--no-cross-encoder", action="store_true")
    parser.add_argument("--compiled", action="store_true", help="ours with torch.compile, too")
    options = parser.parse_args()
    if not options.no_cross_encoder and importlib.util.find_spec("sentence_transformers") is None:
        print("sentence-transformers is not installed: no CrossEncoder")
        options.no_cross_encoder = True
    use_threads(options)
    pairs = made_pairs(options.topics, options.depth, options.words, passages=options.passages)
    rows = [
        row
        for model in options.models
        for dtype in options.dtypes
        for row in compare(model, dtype, pairs, options)
    ]
    report("Scoring on a CPU", rows, options)


def compare(model: str, dtype: str, pairs: Pairs, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of one model and type: one for each method."""
    base = random_base(model, dtype, layers=options.layers)
    contenders: dict[tuple[str, str], Callable[[], object]] = {}
    starts: dict[str, float] = {}
    for method in options.methods:
        reranker = random_reranker(base, method, options.placement)
        contenders[method, "ours"] = lambda reranker=reranker: reranker.score(pairs)
        for size in options.plain_batches:
            contenders[method, f"plain {size}"] = lambda scorer=reranker.scorer, size=size: plain_scores(
                scorer, pairs, size
            )
        if options.compiled:
            contenders[method, "compiled"], starts[method] = compiled(model, dtype, method, pairs, options)
    with tempfile.TemporaryDirectory() as folder:
        if not options.no_cross_encoder:
            contenders["", "cross"] = cross_encoder(base, dtype, pairs, Path(folder))
        seconds = time_in_turn(contenders, options.repeats)
    rates = {key: round(len(pairs) / median(runs), 1) for key, runs in seconds.items()}
    rows = []
    for method in options.methods:
        ours = rates[method, "ours"]
        plain = {size: rates[method, f"plain {size}"] for size in options.plain_batches}
        row = {
            "model": model,
            "parameters": parameters(base.model),
            "type": dtype,
            "method": method,
            "pairs/s": ours,
            **{f"plain, batches of {size}": rate for size, rate in plain.items()},
            "times plain's best": ratio(ours, max(plain.values())),
            "seconds": {name: runs for (of, name), runs in seconds.items() if of in (method, "")},
        }
        if not options.no_cross_encoder:
            row |= {"CrossEncoder": rates["", "cross"], "times CrossEncoder": ratio(ours, rates["", "cross"])}
        if options.compiled:
            row |= {
                "compiled": rates[method, "compiled"],
                "compiled, times": ratio(rates[method, "compiled"], ours),
                "compiled, first call s": starts[method],
            }
        rows.append(row)
        print(", ".join(f"{key} {value}" for key, value in row.items() if key != "seconds"), flush=True)
    return rows


def compiled(
    model: str, dtype: str, method: str, pairs: Pairs, options: argparse.Namespace
) -> tuple[Callable[[], object], float]:
    """The same with its layers compiled (a C++ compiler is needed), and the seconds of its first call."""
    base = random_base(model, dtype, layers=options.layers)
    base.model.base_model.compile(dynamic=True)
    reranker = random_reranker(base, method, options.placement)
    start = time.perf_counter()
    reranker.score(pairs[:2])
    return lambda: reranker.score(pairs), round(time.perf_counter() - start, 1)


def cross_encoder(base: BaseModel, dtype: str, pairs: Pairs, folder: Path) -> Callable[[], object]:
    """sentence-transformers' CrossEncoder on the same pairs, in its own batches."""
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(
        str(random_cross_encoder(base, folder)),
        device=str(base.device),
        model_kwargs={"dtype": getattr(torch, dtype)},
        max_length=512,
    )
    texts = [(query, passage.text) for query, passage in pairs]
    return lambda: model.predict(texts, show_progress_bar=False)


if __name__ == "__main__":
    main()
