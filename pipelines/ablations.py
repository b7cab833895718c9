"""Ablations: one setting after the other takes other values; each is trained and measured on dev topics.

    pipelines/study.sh squad DATA/squad OUT/squad                        # collection file, index, BM25 runs
    python pipelines/ablations.py -c OUT/squad/squad.toml --output OUT/squad/ablations --seeds 0 1 2 \\
        --dtype bfloat16 --epochs 4 --patience 2 --dev-topics 256
    python pipelines/ablations.py --output OUT/squad/ablations --table

It takes every flag of ``qpeft train``; --method is that of the ablations which are not of one method alone.
The output folder gets an adapter folder for each variant and seed, ``ablations.jsonl`` and a picture for each
ablation. A killed run goes on where it was when the same command is given again. No test topic is read.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from ablation_results import Measured, draw, read_lines, summarize, table, write_lines

from qpeft_rerank.cli.__main__ import Parser
from qpeft_rerank.cli.frame import guarded
from qpeft_rerank.cli.options import add_options, from_namespace
from qpeft_rerank.cli.progress import progress_bar
from qpeft_rerank.cli.train import TrainOptions, log_progress
from qpeft_rerank.collection import load_collection
from qpeft_rerank.errors import InputError
from qpeft_rerank.files import atomic_write
from qpeft_rerank.models.config import FILTERS, HINT_METHODS, PROMPT, PROMPT_WITH_HINTS, AdapterConfig
from qpeft_rerank.record import first_difference, run_record
from qpeft_rerank.training.config import TrainingConfig
from qpeft_rerank.training.folder import RECORD_FILE, check_folder, make_folder

_log = logging.getLogger("qpeft_rerank.cli.ablations")  # what a verb says is shown


class Ablation(NamedTuple):
    """Values of a setting, each with what it changes; ``method``: whose setting it is (None: --method)."""

    values: Mapping[str, Mapping[str, Any]]
    method: str | None = None


def _values(setting: str, *values: Any) -> dict[str, dict[str, Any]]:
    return {str(value): {setting: value} for value in values}


ABLATIONS = {
    "k": Ablation(_values("k", 1, 5, 15, 30), "qpeft-r"),
    "heads": Ablation(_values("heads", 1, 2, 4), "qpeft-a"),
    "margin": Ablation(_values("margin", 0.0, 0.1, 0.5, 1.0)),
    "hint-layers": Ablation(_values("hint_layers", 0, 1, 2)),
    "filters": Ablation(
        {
            "all": {"filters": FILTERS},
            "none": {"filters": ()},
            **{f"without {one}": {"filters": tuple(f for f in FILTERS if f != one)} for one in FILTERS},
        },
        "qpeft-r",
    ),
    "placement": Ablation(_values("placement", "prefix", "suffix")),
    "hint-table": Ablation(_values("hint_table", "trained", "frozen")),
    "similarity": Ablation(_values("similarity", "cosine", "dot"), "qpeft-r"),
    "train-topics": Ablation(_values("train_topics", 80, 320, 640, 2560)),
    # The control: are the hints' contents what helps, or is any token of the passage as good, or none?
    "hints": Ablation(
        _values("method", "hard-prompt", "soft-prompt", "random", "qpeft-r", "vocab"), "qpeft-r"
    ),
    "loss": Ablation(_values("loss", "hinge", "contrastive")),
    "learning-rate": Ablation(_values("learning_rate", 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)),
}


class Variant(NamedTuple):
    """One value of an ablation. Variants of the same ``name`` are the same, and trained once."""

    name: str
    ablation: str
    value: str
    settings: AdapterConfig
    training: TrainingConfig


def variants(ablation: str, settings: AdapterConfig, training: TrainingConfig) -> list[Variant]:
    """The variants of an ablation, the baseline first: the settings as they are given.

    Raises:
        InputError: a value is not possible with the other settings.
    """
    values, method = ABLATIONS[ablation]
    method = method or settings.method
    if method not in HINT_METHODS:
        raise InputError(f"--method {method}: there are ablations of {', '.join(HINT_METHODS)} alone")
    plain = changed(settings, training, {"method": method})
    found = []
    for value, changes in values.items():
        now = changed(settings, training, {"method": method, **changes})
        name = (
            method
            if now == plain
            else now[0].method
            if "method" in changes
            else f"{method}.{ablation}.{value}"
        )
        found.append(Variant(name.replace(" ", "-"), ablation, value, *now))
    found.sort(key=lambda variant: variant.name != method)
    return found if found[0].name == method else [Variant(method, ablation, "as given", *plain), *found]


def changed(
    settings: AdapterConfig, training: TrainingConfig, changes: Mapping[str, Any]
) -> tuple[AdapterConfig, TrainingConfig]:
    """Both with some settings changed; a prompt that went with the method goes with the new one."""
    own = {f.name for f in fields(settings)}
    prompt = None if settings.prompt in (PROMPT, PROMPT_WITH_HINTS) else settings.prompt
    adapter = replace(settings, **{"prompt": prompt, **{n: v for n, v in changes.items() if n in own}})
    other = replace(training, **{n: v for n, v in changes.items() if n not in own})
    return adapter, other.for_method(adapter.method, adapter.prompt_alone)


class Bench:
    """The data and the base model, each read once, and the folders of what was measured with them."""

    def __init__(self, options: TrainOptions):
        from qpeft_rerank.training.data import TrainingData
        from qpeft_rerank.trec import read_qrels, read_run

        self.options, self.folder = options, Path(options.output)
        collection = load_collection(options.collection)
        beside = collection.path.parent / f"run.{collection.name}.bm25"
        options.dev_run = options.dev_run or f"{beside}.dev.txt"
        self.source = options.run or options.run_file or f"{beside}.train.txt"
        run = list(read_run(self.source))
        self.data = TrainingData(run, options.read_topics(), read_qrels(options.qrels_source()))
        dev = options.development(self.data)
        self.dev = replace(dev, run=list(dev.run))
        self.passages = options.open_passages()
        self._base: Any = None

    @property
    def base(self) -> Any:
        """The base model, loaded when it is asked for first."""
        if self._base is None:
            from qpeft_rerank.models.base import load_base

            self._base = load_base(self.options.model, **self.options.base_options())
        return self._base

    def measure(self, variant: Variant, seed: int) -> Measured:
        """Train a variant and measure it, unless its record is there.

        Raises:
            InputError: the record is one of other settings.
        """
        folder = self.folder / f"{variant.name}.seed{seed}"
        training = replace(variant.training, seed=seed)
        if (folder / RECORD_FILE).exists():
            record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
            asked = {"adapter": variant.settings.to_dict(), "training": asdict(training)}
            asked |= {"depth": self.options.depth, "base_model": {"name": self.options.model}}
            made = {key: record["settings"][key] for key in asked}
            made["base_model"] = {"name": made["base_model"]["name"]}
            if (other := first_difference(made, asked)) is not None:
                raise InputError(f"{folder}: was made with another {other.name}: take another output folder")
        else:
            _log.info("%s", folder.name)
            make = self._train if variant.settings.trainable else self._rerank
            record = make(variant.settings, training, folder)
        return Measured.of(record, folder, self.dev)

    def _train(self, settings: AdapterConfig, training: TrainingConfig, folder: Path) -> dict[str, Any]:
        from qpeft_rerank.training.loop import train

        sources, depth = self.options.sources(self.source, self.passages), self.options.depth
        data = (self.data, self.passages, folder, self.dev, True, depth)
        with progress_bar(folder.name, " steps") as bar:
            return train(self.base, settings, training, *data, log_progress(bar), sources)

    def _rerank(self, settings: AdapterConfig, training: TrainingConfig, folder: Path) -> dict[str, Any]:
        """What has nothing to train is measured as it is, on the topics that it would choose its epoch by."""
        from qpeft_rerank.training.development import Development
        from qpeft_rerank.training.objective import make_objective

        started, depth = time.monotonic(), self.options.depth
        development = Development(self.dev, self.passages, training, depth)
        objective = make_objective(self.base, settings, self.passages, training)
        make_folder(folder)
        objective.save(folder, {})
        everything = {"adapter": settings.to_dict(), "training": asdict(training), "depth": depth}
        everything |= {"base_model": self.base.describe()}
        everything |= {"development_topics": [topic.qid for topic in development.topics]}
        record = {**run_record(everything), "best_epoch": None, "trained_parameters": 0}
        record["dev"] = development.write(objective, folder)
        record["seconds"] = round(time.monotonic() - started, 1)
        with atomic_write(folder / RECORD_FILE) as stream:
            json.dump(record, stream, indent=2, ensure_ascii=False)
        return record


def run(names: Sequence[str], seeds: Sequence[int], options: TrainOptions) -> Iterator[Path]:
    """Train, measure and write one ablation after the other; yields its picture."""
    plan = {name: variants(name, options.settings, options.training) for name in names}
    bench = Bench(options)
    for ablation, members in plan.items():
        measured = {v.name: {seed: bench.measure(v, seed) for seed in seeds} for v in members}
        lines = summarize(members, measured)
        write_lines(bench.folder, lines)
        picture = bench.folder / f"{ablation}.{members[0].name}.png"
        draw(lines, picture)
        yield picture


def main() -> None:
    """Parse the command line, and do what it says."""
    parser = Parser(prog="ablations.py", usage="ablations.py [flags]", description=__doc__)
    own = parser.add_argument_group("ablations")
    known = ", ".join(ABLATIONS)
    own.add_argument("--only", nargs="+", metavar="NAME", help=f"these ablations alone, of {known}")
    own.add_argument("--seeds", nargs="+", type=int, metavar="N", help="train with each (default: --seed)")
    own.add_argument("--table", action="store_true", help="print what is there, and do nothing else")
    add_options(parser, TrainOptions)
    values: argparse.Namespace = parser.parse_args()
    options = from_namespace(TrainOptions, values)
    if options.output is None:
        raise InputError("no output given: name the folder with --output")
    if values.table:
        print(table(read_lines(Path(options.output))), end="")
        return
    if options.collection is None:
        raise InputError("no collection given: name the file that study.sh wrote with -c")
    for name in (names := values.only or list(ABLATIONS)):
        if name not in ABLATIONS:
            raise InputError(f"there is no ablation {name!r}; there are {known}")
    options.model = options.model or "demo"
    check_folder(options.output)
    for picture in run(names, values.seeds or [options.training.seed], options):
        _log.info("%s", picture)
    print(table(read_lines(Path(options.output))), end="")


if __name__ == "__main__":
    sys.exit(guarded(main, "ablations.py", debug="--debug" in sys.argv))
