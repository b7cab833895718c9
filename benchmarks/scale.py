"""Benchmark 6: time and memory of `qpeft rerank` as topics grow, each size a process of its own.

A tiny model with random weights reranks made runs over the packaged corpus. Time should grow as the pairs do
and memory not at all.

    python benchmarks/scale.py
    python benchmarks/scale.py --topics 10 20 --depth 5 --repeats 1
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from candidates import COLLECTION
from side_by_side import arguments, median, report, run_process

CORPUS = COLLECTION.parent / "corpus.jsonl"
_SAVE_MODEL = """
import sys
from random_models import random_base
base = random_base("tiny", layers=int(sys.argv[2]))
base.model.save_pretrained(sys.argv[1])
base.tokenizer.save_pretrained(sys.argv[1])
"""


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], "scale", repeats=3)
    parser.add_argument("--topics", type=int, nargs="+", default=[10, 100, 1000, 10_000])
    parser.add_argument("--depth", type=int, default=10, help="candidates of each topic")
    parser.add_argument("--layers", type=int, default=2, help="layers of the model")
    parser.add_argument("--dtype", help="type of the weights (default: that of qpeft rerank)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save = [sys.executable, "-c", _SAVE_MODEL, folder / "model", str(options.layers)]
        subprocess.run(save, check=True, cwd=Path(__file__).parent, capture_output=True)
        flags = ["--depth", str(options.depth), *(["--dtype", options.dtype] if options.dtype else [])]
        rows = [
            measure(folder, topics, options.depth, options.repeats, flags)
            for topics in sorted(options.topics)
        ]
    first = rows[0]
    for row in rows:  # start-up is in all of them: what is over the smallest is the topics' own
        more = row["pairs"] - first["pairs"]
        row["ms per pair over the first"] = round(1000 * (row["s"] - first["s"]) / more, 3) if more else None
    report("Rerank, more and more topics", rows, options)


def measure(folder: Path, topics: int, depth: int, repeats: int, flags: list[str]) -> dict[str, Any]:
    """One row: a made run of so many topics, reranked."""
    run, texts, output = (folder / f"{name}.{topics}" for name in ("run", "topics", "out"))
    make_run(run, texts.with_suffix(".tsv"), topics, depth)
    command = [sys.executable, "-m", "qpeft_rerank", "rerank", run, "--model", folder / "model"]
    command += ["--topics", texts.with_suffix(".tsv"), "--corpus", CORPUS, *flags]
    finished = []
    for _ in range(repeats):
        output.unlink(missing_ok=True)
        finished.append(run_process([*command, "--output", output]))
        print(f"{topics} topics: {finished[-1].seconds:.1f} s", flush=True)
    return {
        "topics": topics,
        "pairs": topics * depth,
        "s": median([f.seconds for f in finished]),
        "CPU s": median([f.cpu_seconds for f in finished]),
        "peak MiB": max(f.peak_mib for f in finished),
        "seconds": [f.seconds for f in finished],
    }


def make_run(run: Path, topics_file: Path, topics: int, depth: int) -> None:
    """Topics of words from the corpus, candidates drawn from it."""
    draw = random.Random(0)
    words = CORPUS.read_text(encoding="utf-8").replace('"', " ").split()
    with open(run, "w") as lines, open(topics_file, "w", encoding="utf-8") as texts:
        for topic in range(topics):
            texts.write(f"q{topic}\t{' '.join(draw.choices(words, k=8))}\n")
            for rank, number in enumerate(draw.sample(range(1, 193), depth), 1):
                lines.write(f"q{topic} Q0 d{number:03d} {rank} {-rank} made\n")


if __name__ == "__main__":
    main()
