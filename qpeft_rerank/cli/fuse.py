"""Fuse two or more runs into one: by reciprocal ranks, or by weighted scores.

Weights are equal, or given with --weights, or tuned: with --tune, the runs are of topics with qrels (those of
the split dev, with -c), and the weights are chosen that are best by the measure, on average over samples of
the topics. Each try is said on stderr.
--save keeps the weights and their settings in a file; --weights takes it for the runs of other topics. The
fused run is written in any case. Topics that only some of the runs have are kept, and their number is said.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from qpeft_rerank.cli.options import Verb, borrowed, option, several
from qpeft_rerank.cli.shared_options import OutputRunOptions, QrelsOptions
from qpeft_rerank.errors import InputError, examples
from qpeft_rerank.files import check_output
from qpeft_rerank.fusion import FusionConfig

if TYPE_CHECKING:
    from qpeft_rerank.fusion import Pool
    from qpeft_rerank.fusion_weights import Trial

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class TuneOptions(QrelsOptions):
    """How weights are tuned."""

    title: ClassVar[str] = "weights by qrels"
    default_split: ClassVar[str] = "dev"

    split: str | None = option(None, "split of the collection that the runs are of (default: dev)")
    tune: bool = option(False, "choose the weights that are best for these runs by the qrels")
    measure: str | None = option(
        None, "measure that they are best by (default: nDCG@10)", flags=("-m", "--measure")
    )
    save: str | None = option(None, "file for the tuned weights and their settings", metavar="FILE.json")


@dataclass(kw_only=True)
class FuseOptions(OutputRunOptions, TuneOptions):
    """Flags of `qpeft fuse`."""

    runs: list[str] = several(
        "runs to fuse, two or more, TREC or MS MARCO's (.gz too); one may be '-': stdin",
        positional=True,
        metavar="RUN",
    )
    method: str | None = borrowed(FusionConfig, "method")
    normalize: str | None = borrowed(FusionConfig, "normalize")
    rrf_k: int | None = borrowed(FusionConfig, "rrf_k")
    depth: int | None = borrowed(FusionConfig, "depth")
    hits: int = option(1000, "documents of each topic to write", least=1)
    weights: str | None = option(
        None,
        "weight of each run in their order, such as 0.3,0.7, or the file that --save wrote, which brings its "
        "other settings too (default: equal)",
        metavar="X,X|FILE",
    )

    def check(self) -> None:
        """Raise `InputError` for flags that do not go together."""
        if len(self.runs) < 2:
            raise InputError(f"{len(self.runs) or 'no'} run{'s' * (not self.runs)} given: name two or more")
        if self.runs.count("-") > 1:
            raise InputError("stdin ('-') can be read once only")
        if self.tune and self.weights is not None:
            raise InputError("--tune and --weights: weights are either tuned or given")
        for name in ("measure", "save", "collection", "split", "qrels"):
            if getattr(self, name) is not None and not self.tune:
                raise InputError(f"--{name} is for tuning weights: give --tune too")

    def config(self) -> FusionConfig:
        """The settings. Raises `InputError` for those that do not go together."""
        given = {
            f.name: value
            for f in fields(FusionConfig)
            if f.name != "weights" and (value := getattr(self, f.name)) is not None
        }
        weights = _weights(self.weights)
        if isinstance(weights, FusionConfig):
            if given:
                raise InputError(
                    f"--{_flag(given)} and --weights {self.weights}: the file brings its own settings"
                )
            return weights
        config = FusionConfig(**given, weights=weights)
        other = {"normalize": "interpolation", "rrf_k": "rrf"}
        for name in given:
            if other.get(name, config.method) != config.method:
                raise InputError(f"--{_flag([name])} is for --method {other[name]}")
        return config


def run(options: FuseOptions) -> None:
    """Fuse and write."""
    options.check()
    check_output(options.output, *options.runs)

    from qpeft_rerank.fusion import pool_runs
    from qpeft_rerank.trec import read_run, write_run

    config = options.config()
    weights = config.weights_of(len(options.runs))
    pools: Iterable[Pool] = pool_runs([read_run(run) for run in options.runs], config)
    if options.tune:
        weights, pools = _tuned(options, config, pools)
    partly: list[str] = []
    rankings = (pool.ranking(weights, options.hits) for pool in _noting_partly_found(pools, partly))
    topics = write_run(rankings, options.output, options.runtag or config.method)
    if partly:
        _log.info(
            "%d of %d topics are not in all %d runs: %s",
            len(partly),
            topics,
            len(options.runs),
            examples(partly),
        )


def _noting_partly_found(pools: Iterable[Pool], partly: list[str]) -> Iterator[Pool]:
    """The same pools; the topics that a run lacks are noted in ``partly``."""
    for pool in pools:
        if pool.found_in < len(pool.scores):
            partly.append(pool.qid)
        yield pool


def _tuned(
    options: FuseOptions, config: FusionConfig, pools: Iterable[Pool]
) -> tuple[tuple[float, ...], list[Pool]]:
    """The tuned weights, said and saved, and what they weigh."""
    from qpeft_rerank.fusion_weights import save_weights, tune_weights
    from qpeft_rerank.measures import EQUAL, parse_measures
    from qpeft_rerank.trec import read_qrels

    measure = options.measure or "nDCG@10"
    parse_measures([measure])  # what is wrong with the flags is said before the runs are read
    if options.save is not None:
        check_output(options.save, *options.runs, options.qrels)
    source = options.qrels_source()
    qrels, pools = read_qrels(source), list(pools)

    highest = -math.inf

    def say(trial: Trial) -> None:
        nonlocal highest
        if trial.value > highest + EQUAL or len(options.runs) == 2:  # a search over more runs tries hundreds
            highest = max(highest, trial.value)
            _log.info("weights %s: %s %.4f", _text(trial.weights), measure, trial.value)

    tuning = tune_weights(pools, qrels, measure, options.hits, say)
    weights, value = tuning.chosen
    _log.info(
        "chosen of %d: weights %s (the mean of the best of samples of the topics), %s %.4f on all topics",
        len(tuning.trials),
        _text(weights),
        measure,
        value,
    )
    if options.save is not None:
        sources = {"runs": options.runs, "qrels": source, "hits": options.hits}
        save_weights(options.save, config, tuning, sources)
    return weights, pools


def _weights(text: str | None) -> tuple[float, ...] | FusionConfig | None:
    """What --weights says: numbers, or a file that has them with all settings."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        from qpeft_rerank.fusion_weights import load_weights

        return load_weights(text)


def _text(weights: Iterable[float]) -> str:
    return ",".join(f"{weight:g}" for weight in weights)


def _flag(names: Any) -> str:
    return next(iter(names)).replace("_", "-")


VERB = Verb(
    __doc__,
    "  qpeft fuse run.bm25.txt run.dense.txt --output run.rrf.txt\n"
    "  qpeft fuse run.bm25.dev.txt run.dense.dev.txt --method interpolation -c squad.toml --tune \\\n"
    "      --save weights.json --output run.hybrid.dev.txt\n"
    "  qpeft fuse run.bm25.test.txt run.dense.test.txt --weights weights.json | qpeft evaluate -c squad.toml",
    FuseOptions,
    run,
)
