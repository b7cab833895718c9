"""Bring a study's runs into ``runs/``: zipped, with their records and those of the trainings.

    python pipelines/collect_runs.py OUT/squad runs/squad
    python pipelines/collect_runs.py OUT/seeds runs/nq-qed --name nq-qed --topics test-fourth --only '*.seed?'

OUT/squad is the OUTPUT of `study.sh`. Fused runs and RM3's are left out: `qpeft fuse` makes the former of the
others with their weights, `qpeft bm25 --rm3` the latter. In records, paths are cut to the names of files.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from qpeft_rerank.collection import load_collection
from qpeft_rerank.errors import InputError, QpeftError
from qpeft_rerank.files import atomic_write


def study_name(study: Path) -> str:
    """The collection's name in a study's folder. InputError if it has not one collection file."""
    files = sorted(study.glob("*.toml"))
    if len(files) != 1:
        raise InputError(
            f"{study}: has {len(files)} collection files, not one: is it the OUTPUT of study.sh?"
        )
    return load_collection(files[0]).name


def runs_on_test(study: Path, name: str) -> Iterator[tuple[str, Path]]:
    """(system, run) of a study's test topics, by name."""
    start, end = f"run.{name}.", ".test.txt"
    for path in sorted(study.glob(f"{start}*{end}")):
        yield path.name.removeprefix(start).removesuffix(end), path


def collect(study: Path, target: Path, name: str, topics: str, only: str) -> list[Path]:
    """Copy a study's runs, records (of a method's tried learning rates in one file) and weights, and give the
    files written.

    Args:
        study: OUTPUT of `study.sh`. target: folder to copy to, made if need be.
        name, topics: the collection, and which topics, in the copies' names.
        only: a pattern of systems, as a shell's.
    """
    written: list[Path] = []
    own = study_name(study)
    target.mkdir(parents=True, exist_ok=True)
    for system, run in runs_on_test(study, own):
        record = Path(f"{run}.json")
        fused = "+" in system and not record.exists()
        if fused or system == "rm3" or not fnmatch(system, only):
            continue
        copy = target / f"run.{name}.{system}.{topics}"
        # Without a time in it: the same run gives the same bytes.
        Path(f"{copy}.txt.gz").write_bytes(gzip.compress(run.read_bytes(), mtime=0))
        written.append(Path(f"{copy}.txt.gz"))
        if record.exists():
            written.append(_copy_record(record, Path(f"{copy}.json")))
    for folder in sorted(study.glob("adapter.*")):
        system = folder.name.removeprefix("adapter.")
        if (folder / "training.json").exists() and fnmatch(system, only):
            written.append(_copy_record(folder / "training.json", target / f"training.{system}.json"))
            if (folder / "training.png").exists():
                written.append(Path(shutil.copy(folder / "training.png", target / f"training.{system}.png")))
    trials = sorted(study.glob("rates/*/training.json"))
    for system in sorted({path.parent.name.partition(".")[0] for path in trials}):
        if fnmatch(system, only):
            written.append(target / f"learning-rates.{system}.jsonl")
            with atomic_write(written[-1]) as out:
                for path in (path for path in trials if path.parent.name.startswith(f"{system}.")):
                    record = _without_folders(json.loads(path.read_text(encoding="utf-8")))
                    out.write(json.dumps(record, ensure_ascii=False) + "\n")
    for weights in sorted(study.glob("weights.*.json")):
        if fnmatch(weights.name.removeprefix("weights.").removesuffix(".json"), only):
            written.append(_copy_record(weights, target / weights.name))
    return written


def _copy_record(source: Path, target: Path) -> Path:
    record = _without_folders(json.loads(source.read_text(encoding="utf-8")))
    with atomic_write(target) as out:
        out.write(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return target


def _without_folders(value: Any) -> Any:
    """The same, with texts that are paths cut to their last name: "the index out/squad/index" to its."""
    if isinstance(value, dict):
        return {key: _without_folders(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_folders(one) for one in value]
    if isinstance(value, str) and "/" in value:
        *words, path = value.split(" ")
        if "/" in path and all("/" not in word for word in words) and len(words) in (0, 2):
            return " ".join([*words, Path(path).name])
    return value


def main() -> None:
    """Copy and print what was written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path, help="OUTPUT of study.sh")
    parser.add_argument("target", type=Path, help="folder to copy to")
    parser.add_argument("--name", help="of the collection in the copies' names (default: the study's)")
    parser.add_argument("--topics", default="test", help="which topics, in the copies' names")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="systems, such as '*.seed?'")
    args = parser.parse_args()
    try:
        name = args.name or study_name(args.study)
        written = collect(args.study, args.target, name, args.topics, args.only)
    except QpeftError as error:
        parser.exit(2, f"collect_runs: {error}\n")
    print(*written, sep="\n")


if __name__ == "__main__":
    main()
