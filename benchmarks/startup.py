"""Start-up times of the command line, each call a process of its own.

`rerank` is timed up to its end on a run of one topic with one candidate and the packaged model: nearly all of
it is Python, PyTorch and transformers being loaded.

    python benchmarks/startup.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from candidates import COLLECTION
from side_by_side import arguments, median, report, run_process

QPEFT = [sys.executable, "-m", "qpeft_rerank"]


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], "startup", repeats=7)
    parser.add_argument("--calls", nargs="+", help="only these rows of the table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run, qrels = Path(folder, "run.txt"), Path(folder, "qrels.txt")
        topic = Path(COLLECTION.parent / "topics.test.tsv").read_text(encoding="utf-8").split("\t")[0]
        run.write_text(f"{topic} Q0 d001 1 1.0 tag\n")
        qrels.write_text(f"{topic} 0 d001 1\n")
        calls = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "import qpeft_rerank": [sys.executable, "-c", "import qpeft_rerank"],
            "qpeft --help": [*QPEFT, "--help"],
            "qpeft rerank --help": [*QPEFT, "rerank", "--help"],
            "qpeft evaluate": [*QPEFT, "evaluate", run, "--qrels", qrels],
            "import torch, transformers": [sys.executable, "-c", "import torch, transformers"],
            "qpeft rerank, one pair": [
                *QPEFT,
                "rerank",
                run,
                "-c",
                COLLECTION,
                "--split=test",
                "--model=demo",
            ],
        }
        chosen = options.calls or calls
        if not calls.keys() >= set(chosen):
            parser.error(f"--calls: known are {', '.join(map(repr, calls))}")
        rows = [measure(name, calls[name], options.repeats) for name in chosen]
    report("Start-up", rows, options)


def measure(name: str, command: list[Any], repeats: int) -> dict[str, Any]:
    """One row: the first call, which fills the disk's caches, is not timed."""
    run_process(command)
    finished = [run_process(command) for _ in range(repeats)]
    return {
        "call": name,
        "s": median([f.seconds for f in finished]),
        "CPU s": median([f.cpu_seconds for f in finished]),
        "peak MiB": max(f.peak_mib for f in finished),
        "loads torch": loads_torch(command),
        "seconds": [f.seconds for f in finished],
    }


def loads_torch(command: list[Any]) -> str:
    """Whether the call imports torch, by the table of import times that Python can print."""
    import subprocess

    words = [str(word) for word in command]
    done = subprocess.run([words[0], "-X", "importtime", *words[1:]], capture_output=True, text=True)
    modules = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if "|" in line}
    return "yes" if "torch" in modules else "no"


if __name__ == "__main__":
    main()
