"""What the learning rates that `study.sh` tried (RATES) gave on dev: a table, a picture, or the best one.

    python pipelines/learning_rates.py OUT/squad                        # OUTPUT of study.sh
    python pipelines/learning_rates.py OUT/squad --plot rates.png
    python pipelines/learning_rates.py OUT/squad --best qpeft-a [RATE ...]

A training's loss is that of the epoch it kept. The best rate is the one with the least loss; of equal ones,
the lowest.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from math import nan
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from results_table import LABELS

from qpeft_rerank.errors import InputError, QpeftError

MEASURE = "nDCG@10"
ALONE, BESIDE = MEASURE, f"{MEASURE} with weight"  # as a record of training names them


class Trial(NamedTuple):
    """A training: method, rate (as a number and as it was spelled), loss on dev of the epoch that was kept,
    losses by epoch, measures on dev.
    """

    method: str
    rate: float
    spelled: str
    loss: float
    losses: list[float]
    dev: dict[str, float]


def trials(study: Path) -> list[Trial]:
    """The trainings of a study's ``rates``, in the tables' order of methods, by rate.

    Raises:
        InputError: none is there.
    """
    found = []
    for path in study.glob("rates/*/training.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        training = record["settings"]["training"]
        losses = [epoch["dev_loss"] for epoch in record["epochs"]]
        method, _, spelled = path.parent.name.partition(".")
        kept = losses[record["best_epoch"]]  # epoch 0 is before training
        found.append(Trial(method, training["learning_rate"], spelled, kept, losses, record["dev"]))
    if not found:
        raise InputError(f"{study}: no learning rates were tried there: see RATES in study.sh")
    order = list(LABELS)
    return sorted(found, key=lambda t: (order.index(t.method) if t.method in order else len(order), *t[:2]))


def best(found: Sequence[Trial], method: str, rates: Sequence[str] = ()) -> Trial:
    """The trial of a method with the least loss, of all or of these ``rates``. InputError if none is."""
    of_method = [t for t in found if t.method == method and (not rates or t.spelled in rates)]
    if not of_method:
        raise InputError(f"no learning rate was tried for {method}")
    return min(of_method, key=lambda trial: (trial.loss, trial.rate))


def table(found: Sequence[Trial]) -> list[str]:
    """Markdown: a row for each trial, the best rate of each method in bold."""
    lines = ["| | rate | loss by epoch (0: before) | least | alone | beside BM25 |"]
    lines.append("| --- | ---: | --- | ---: | ---: | ---: |")
    for trial in found:
        name = LABELS.get(trial.method, trial.method)
        rate = f"{trial.rate:g}"
        rate = f"**{rate}**" if trial == best(found, trial.method) else rate
        losses = ", ".join(f"{loss:.3f}" for loss in trial.losses)
        figures = [f"{trial.dev[what]:.4f}" if what in trial.dev else "" for what in (ALONE, BESIDE)]
        lines.append(f"| {name} | {rate} | {losses} | {trial.loss:.3f} | {' | '.join(figures)} |")
    return lines


def draw(found: Sequence[Trial], picture: Path) -> None:
    """Loss, nDCG@10 alone and beside BM25 by rate: a line for each method, a ring around the best rate's."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    panels = figure.subplots(1, 3)
    values = (lambda t: t.loss, lambda t: t.dev.get(ALONE, nan), lambda t: t.dev.get(BESIDE, nan))
    for axes, value, title in zip(panels, values, ("loss", f"{ALONE} alone", f"{ALONE} beside BM25")):
        for method in dict.fromkeys(trial.method for trial in found):
            own = [trial for trial in found if trial.method == method]
            (line,) = axes.plot(
                [t.rate for t in own], [value(t) for t in own], ".-", label=LABELS.get(method, method)
            )
            chosen = best(found, method)
            axes.plot(chosen.rate, value(chosen), "o", color=line.get_color(), markersize=9, fillstyle="none")
        axes.set(xscale="log", xlabel="learning rate", title=title)
    names = panels[0].get_legend_handles_labels()
    figure.legend(*names, loc="outside lower center", ncols=6, fontsize="small")
    figure.suptitle("On dev; ring: the rate with the least loss", fontsize="medium")
    figure.savefig(picture, dpi=100)


def main() -> None:
    """Print the table or the best rate, or draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path, help="OUTPUT of study.sh")
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--best",
        nargs="+",
        metavar=("METHOD", "RATE"),
        help="print a method's rate with the least loss, of these if some are given",
    )
    form.add_argument("--plot", type=Path, metavar="FILE", help="draw loss and nDCG@10 by rate")
    args = parser.parse_args()
    try:
        found = trials(args.study)
        if args.plot:
            draw(found, args.plot)
        elif args.best:
            method, *rates = args.best
            print(best(found, method, rates).spelled)
        else:
            print(*table(found), sep="\n")
    except QpeftError as error:
        parser.exit(2, f"learning_rates: {error}\n")


if __name__ == "__main__":
    main()
