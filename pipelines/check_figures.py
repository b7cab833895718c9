"""Which figures of the README still hold? Compares the runs that `study.sh` wrote with `expected.yaml`.

    pipelines/study.sh squad DATA/squad OUT/squad
    python pipelines/check_figures.py OUT

One line for each figure: ok, or what it is now. Exit code 1 if one is missing or off by more than its
tolerance, 2 if a run or its qrels cannot be read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from qpeft_rerank.errors import QpeftError
from qpeft_rerank.evaluation import evaluate

EXPECTED = Path(__file__).with_name("expected.yaml")


class Figure(NamedTuple):
    """A figure that is expected, and what it is now (None: its run is not there)."""

    collection: str
    system: str
    measure: str
    expected: float
    tolerance: float
    found: float | None

    @property
    def holds(self) -> bool:
        """Whether it is what was expected."""
        return self.found is not None and abs(self.found - self.expected) <= self.tolerance


def check(output: Path, only: Sequence[str] = ()) -> Iterator[Figure]:
    """Measure the run of every system that is expected, collection by collection (``only`` these, if any)."""
    for collection, rows in yaml.safe_load(EXPECTED.read_text(encoding="utf-8")).items():
        if only and collection not in only:
            continue
        tolerance, folder = rows.pop("tolerance"), output / collection
        for system, expected in rows.items():
            run, found = folder / f"run.{collection}.{system}.test.txt", {}
            if run.exists():
                found = evaluate(run, folder / "qrels.test.txt", list(expected)).means
            for measure, value in expected.items():
                # BM25 is the same everywhere; what a model computes depends a little on the processor.
                slack = 1e-4 if system in ("bm25", "rm3") else tolerance
                yield Figure(collection, system, measure, value, slack, found.get(measure))


def main() -> int:
    """Print the figures; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, help="folder that holds one of each collection")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="folders to look at")
    args = parser.parse_args()
    try:
        figures = list(check(args.output, args.only))
    except QpeftError as error:
        parser.exit(2, f"check_figures: {error}\n")
    for f in figures:
        now = "missing" if f.found is None else "ok" if f.holds else f"now {f.found:.4f}"
        print(f"{f.collection:12} {f.system:28} {f.measure:10} {f.expected:.4f}  {now}")
    bad = sum(not f.holds for f in figures)
    print(f"{len(figures) - bad} of {len(figures)} figures hold")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
