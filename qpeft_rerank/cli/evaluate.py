"""Measure runs against qrels. All topics that have judgements count; one that a run leaves out counts 0.

Several runs give one table with differences from the first run, a paired t-test and the Holm correction.
Measures go by both names that are in use: nDCG@10, RR@10, R@100, AP, P@30, Success@5, or ndcg_cut.10,
recip_rank, recall.100, map.

With --average-seeds, run.a.txt, run.a.seed1.txt and run.a.seed2.txt are one system, of which each topic has
the mean.

So that run.* can be given, RUN.json is skipped where RUN is given too: it is the record that rerank wrote.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qpeft_rerank.cli.options import Verb, option, several
from qpeft_rerank.cli.shared_options import QrelsOptions, stdin_run
from qpeft_rerank.errors import InputError
from qpeft_rerank.files import check_output
from qpeft_rerank.measures import DEFAULT_MEASURES

if TYPE_CHECKING:
    from qpeft_rerank.evaluation import Evaluation


PICTURES = (".png", ".pdf", ".svg")


@dataclass(kw_only=True)
class EvaluateOptions(QrelsOptions):
    """Flags of `qpeft evaluate`."""

    runs: list[str] = several(
        "runs to measure, TREC or MS MARCO's (.gz too); '-' or nothing: stdin", positional=True, metavar="RUN"
    )
    measure: list[str] = several(
        f"measure, to repeat (default: {' '.join(DEFAULT_MEASURES)})", flags=("-m", "--measure")
    )
    per_topic: bool = option(False, "the values of each topic too", flags=("-q", "--per-topic"))
    relevance_level: int = option(
        1,
        "least grade that counts as relevant, for measures without grades",
        flags=("-l", "--relevance-level"),
        least=1,
    )
    average_seeds: bool = option(
        False, "runs whose names are alike but for .seed and a number are one: their mean, topic by topic"
    )
    format: str = option("text", "form of the table", choices=("text", "tsv", "json", "latex"))
    output: str = option("-", "file for the table (default: stdout)", metavar="FILE")
    plot: str | None = option(
        None,
        "picture of the differences per topic from the first run, by the first measure; with three "
        "runs or more, one picture each, named after the run",
        metavar="FILE.png",
    )
    plot_cutoffs: str | None = option(
        None,
        "picture of the measures by cutoff, a curve for each run: of those that are asked for with "
        "several, such as -m recall.5,10,20,50",
        metavar="FILE.png",
    )


def run(options: EvaluateOptions) -> None:
    """Evaluate the runs, write the table, draw the pictures."""
    from qpeft_rerank.evaluation import evaluate, run_names
    from qpeft_rerank.files import atomic_write
    from qpeft_rerank.measures import parse_measures
    from qpeft_rerank.plots import measures_by_cutoff, plot_cutoffs
    from qpeft_rerank.report import format_report
    from qpeft_rerank.seeds import average_seeds
    from qpeft_rerank.trec import read_qrels

    measures = options.measure or list(DEFAULT_MEASURES)
    parse_measures(measures)  # a wrong name is said before anything is read
    runs = _without_records(options.runs) or [stdin_run()]
    _check_names(runs)
    if runs.count("-") > 1:
        raise InputError("stdin ('-') can be read once only")
    if options.qrels == "-" and "-" in runs:
        raise InputError("the run and the qrels cannot both come from stdin")
    check_output(options.output, *runs, options.qrels)
    if options.plot is not None:
        if len(runs) < 2:
            raise InputError("--plot needs two runs or more: it shows differences from the first")
    for flag, picture in (("--plot", options.plot), ("--plot-cutoffs", options.plot_cutoffs)):
        if picture is None:
            continue
        if Path(picture).suffix.lower() not in PICTURES:
            raise InputError(f"{flag}: {picture} does not end in {', '.join(PICTURES)}")
        check_output(picture)
    if options.plot_cutoffs is not None:
        measures_by_cutoff(measures)  # before anything is read
    qrels = read_qrels(options.qrels_source())
    with atomic_write(options.output) as table:
        evaluations = [
            evaluate(run, qrels, measures, options.relevance_level, name)
            for run, name in zip(runs, run_names(runs), strict=True)
        ]
        if options.average_seeds:
            evaluations = average_seeds(evaluations)
        if options.plot is not None and len(evaluations) < 2:
            raise InputError("--plot needs two systems or more: seeds of one are one")
        table.write(format_report(evaluations, options.format, options.per_topic))
    if options.plot is not None:
        _plot(evaluations, options.plot)
    if options.plot_cutoffs is not None:
        plot_cutoffs(evaluations, options.plot_cutoffs)


def _without_records(runs: Sequence[str]) -> list[str]:
    return [run for run in runs if not (run.endswith(".json") and run.removesuffix(".json") in runs)]


def _check_names(runs: Sequence[str]) -> None:
    """Raise `InputError` for a measure in the place of a run: other tools take several after one -m."""
    from qpeft_rerank.measures import parse_measures

    for run in runs:
        if run == "-" or os.path.exists(run):
            continue
        try:
            parse_measures([run])
        except InputError:
            continue  # a run that is not there, which is said where it is read
        raise InputError(f"{run} is a measure: give it as -m {run}")


def _plot(evaluations: Sequence[Evaluation], plot: str) -> None:
    from qpeft_rerank.plots import plot_topic_differences

    baseline, *others = evaluations
    path = Path(plot)
    for other in others:
        own = (
            path
            if len(others) == 1
            else path.with_name(f"{path.stem}.{other.name.replace('/', '.')}{path.suffix}")
        )
        plot_topic_differences(baseline, other, baseline.measures[0], own)


VERB = Verb(
    __doc__,
    "  qpeft evaluate --qrels qrels.test.txt -m nDCG@10 -m R@100 run.bm25.txt run.qpeft-a.txt",
    EvaluateOptions,
    run,
)
