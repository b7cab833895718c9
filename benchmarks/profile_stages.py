"""Where the time goes: the model's forward pass and everything else, for benchmarks 1, 2 and 5.

Scoring is timed from texts to scores. The model's share is the time inside its forward calls, output layer
included; the device is waited for around each call, so that a GPU's work counts where it belongs. The stages
of reading and evaluating a run are timed by Python's own profiler.

    python benchmarks/profile_stages.py
    python benchmarks/profile_stages.py --models tiny --topics 1 --depth 10 --lines 20000
    python benchmarks/profile_stages.py --models 7b --dtypes bfloat16 --device cuda --topics 50
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from candidates import Pairs, made_pairs
from random_models import DEMO, METHODS, NAMES, random_base, random_reranker
from side_by_side import arguments, median, report, use_threads
from trec_files import MEASURES, make_files

import qpeft_rerank
from qpeft_rerank.evaluation import evaluate

PACKAGE = str(Path(qpeft_rerank.__file__).parent)
LINES_OF_TOPIC = 1000


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], "profile_stages", repeats=3)
    parser.add_argument("--models", nargs="+", choices=NAMES, default=["tiny", DEMO, "12-layer"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["qpeft-r", "qpeft-a"])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--placement", choices=("suffix", "prefix"), default="suffix", help="of the hints")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--layers", type=int, help="layers of the models with random weights")
    parser.add_argument("--topics", type=int, default=5)
    parser.add_argument("--depth", type=int, default=100, help="candidates of each topic")
    parser.add_argument("--lines", type=int, default=1_000_000, help="lines of the evaluated run")
    options = parser.parse_args()
    use_threads(options)
    pairs = made_pairs(options.topics, options.depth)
    rows = [
        scoring_row(model, dtype, method, pairs, options)
        for model in options.models
        for dtype in options.dtypes
        for method in options.methods
    ]
    rows.append(evaluation_row(options.lines))
    report("Where the time goes", rows, options)


def scoring_row(
    model: str, dtype: str, method: str, pairs: Pairs, options: argparse.Namespace
) -> dict[str, Any]:
    """Seconds of a stage of scoring, and its share."""
    base = random_base(model, dtype, options.device, options.layers)
    reranker = random_reranker(base, method, options.placement)
    encoder, scorer = reranker.scorer.encoder, reranker.scorer
    reranker.score(pairs)  # warm up; the first call asks once whether passages can be shared
    runs = []
    for _ in range(options.repeats):
        encoder._queries.clear()  # texts are tokenised anew
        encoder._passages.clear()
        clock = Clock()
        with clock.around(scorer.model, "forward", "model"), clock.around(encoder, "encode", "tokens"):
            hints = scorer.hints or torch.nn.Identity()
            with clock.around(hints, "forward", "hints"):
                start = time.perf_counter()
                reranker.score(pairs)
                total = time.perf_counter() - start
        runs.append({"total": total, **clock.seconds})
    middle = sorted(runs, key=lambda run: run["total"])[len(runs) // 2]
    total = middle["total"]
    other = total - sum(seconds for name, seconds in middle.items() if name != "total")
    return {
        "stage": f"score, {model}",
        "type": dtype,
        "method": method,
        "s": median([total]),
        "model %": _percent(middle["model"], total),
        "hints %": _percent(middle.get("hints", 0.0), total),
        "texts to tokens %": _percent(middle["tokens"], total),
        "rest %": _percent(other, total),
        "runs": runs,
    }


class Clock:
    """Seconds spent in chosen methods."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def around(self, owner: Any, method: str, name: str) -> _Around:
        """Within it, calls of ``owner.method`` are counted under this name."""
        self.seconds.setdefault(name, 0.0)
        return _Around(self, owner, method, name)


class _Around:
    def __init__(self, clock: Clock, owner: Any, method: str, name: str):
        self.clock, self.owner, self.method, self.name = clock, owner, method, name

    def __enter__(self) -> None:
        self.own = vars(self.owner).get(self.method)
        inner: Callable[..., Any] = getattr(self.owner, self.method)

        def timed(*words: Any, **named: Any) -> Any:
            _finish()
            start = time.perf_counter()
            result = inner(*words, **named)
            _finish()
            self.clock.seconds[self.name] += time.perf_counter() - start
            return result

        setattr(self.owner, self.method, timed)

    def __exit__(self, *failure: object) -> None:
        if self.own is None:
            delattr(self.owner, self.method)
        else:
            setattr(self.owner, self.method, self.own)


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def evaluation_row(lines: int) -> dict[str, Any]:
    """Evaluating a run: the functions of the package that take most time by themselves."""
    with tempfile.TemporaryDirectory() as folder:
        make_files(Path(folder), max(1, lines // LINES_OF_TOPIC), min(lines, LINES_OF_TOPIC))
        run, qrels = Path(folder, "run.txt"), Path(folder, "qrels.txt")
        evaluate(run, qrels, MEASURES)
        profile = cProfile.Profile()
        start = time.perf_counter()
        profile.runcall(evaluate, run, qrels, MEASURES)
        seconds = time.perf_counter() - start
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    within = {
        f"{Path(file).stem}.{name}": cumulative
        for (file, _, name), (_, _, _, cumulative, _) in stats.items()
        if file.startswith(PACKAGE) and not name.startswith("<") and cumulative > 0.02 * seconds
    }
    largest = sorted(within.items(), key=lambda item: -item[1])
    print("\nevaluate, seconds with what a function calls (the profiler's own time is in them):")
    for name, spent in largest:
        print(f"  {spent:8.3f}  {name}")
    return {"stage": f"evaluate, {lines:,} lines", "s": median([seconds]), "functions": dict(largest)}


def _percent(part: float, whole: float) -> float:
    return round(100 * part / whole, 1)


if __name__ == "__main__":
    main()
