"""Pictures: per-topic differences of two runs, measures by cutoff, curves of a training.

The kind of picture goes by the ending of the path: png, pdf, svg. matplotlib is imported when one is drawn.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qpeft_rerank.errors import DependencyError, InputError
from qpeft_rerank.evaluation import Evaluation
from qpeft_rerank.files import replacing
from qpeft_rerank.measures import EQUAL, Measure, parse_measures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Blue and orange are told apart with any colour vision (Okabe and Ito's palette).
_BETTER, _WORSE = "#0072B2", "#D55E00"


def plot_topic_differences(
    baseline: Evaluation, other: Evaluation, measure: str, path: str | PathLike[str]
) -> None:
    """Draw ``other`` minus ``baseline`` by one measure: a bar for each topic, largest gain first.

    Raises:
        InputError: a measure that the evaluations do not have, other topics, a path that cannot be written.
        DependencyError: matplotlib is missing.
    """
    for evaluation in (baseline, other):
        if measure not in evaluation.means:
            raise InputError(f"run {evaluation.name!r} was not evaluated by {measure!r}")
    if baseline.per_topic.keys() != other.per_topic.keys():
        raise InputError(f"runs {baseline.name!r} and {other.name!r} were evaluated on different topics")
    differences = sorted(
        (other.per_topic[qid][measure] - values[measure] for qid, values in baseline.per_topic.items()),
        reverse=True,
    )
    wins, losses = sum(d > EQUAL for d in differences), sum(d < -EQUAL for d in differences)

    figure = _figure()
    axes = figure.add_subplot()
    ranks = range(1, len(differences) + 1)
    # Steps, not one rectangle for each topic: thousands of topics are drawn as fast as ten.
    for sign, colour, label in ((1, _BETTER, f"better: {wins}"), (-1, _WORSE, f"worse: {losses}")):
        heights = [d if d * sign > 0 else 0.0 for d in differences]
        axes.stairs(heights, [0.5, *(rank + 0.5 for rank in ranks)], fill=True, color=colour, label=label)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xlim(0.5, len(differences) + 0.5)
    axes.set_xlabel(f"{len(differences)} topics, sorted by difference")
    axes.set_ylabel(f"difference in {measure}")
    change = other.means[measure] - baseline.means[measure]
    axes.set_title(_plain(f"{other.name} minus {baseline.name}: {change:+.4f}"), wrap=True)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(title=f"equal: {len(differences) - wins - losses}")
    _save(figure, path)


def plot_cutoffs(evaluations: Sequence[Evaluation], path: str | PathLike[str]) -> None:
    """Draw how measures grow with their cutoff: a curve for each run, a panel for each measure.

    Args:
        evaluations: of runs by the same measures; those with two cutoffs or more are drawn (R@5, R@10 ...).
        path: where to write the picture.

    Raises:
        InputError: no evaluation, no measure with two cutoffs, other measures or topics, a path that cannot
            be written.
        DependencyError: matplotlib is missing.
    """
    if not evaluations:
        raise InputError("there is no evaluation to draw")
    first, *others = evaluations
    for other in others:
        if other.measures != first.measures or other.per_topic.keys() != first.per_topic.keys():
            raise InputError(f"runs {first.name!r} and {other.name!r} have other measures or topics")
    panels = measures_by_cutoff(first.measures)
    figure = _figure(width=4.5 * len(panels))
    for place, (name, measures) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, len(panels), place)
        cutoffs = [measure.cutoff for measure in measures]
        for evaluation in evaluations:
            values = [evaluation.means[measure.spelling] for measure in measures]
            axes.plot(cutoffs, values, marker="o", markersize=3, label=_plain(evaluation.name))
        if cutoffs[0] > 0:  # IPrec's are recalls from 0
            axes.set_xscale("log")  # what changes, changes at the first ranks
        axes.set_xticks(cutoffs, map(str, cutoffs))
        axes.minorticks_off()
        axes.set_xlabel("cutoff")
        axes.set_ylabel(f"{name}, mean over {first.judged} topics")
        axes.grid(alpha=0.3)
        if place == len(panels):
            axes.legend()
    _save(figure, path)


def measures_by_cutoff(names: Iterable[str]) -> dict[str, list[Measure]]:
    """Measures that are asked for with two cutoffs or more, by their name without it; smallest cutoff first.

    Raises: InputError: there is none.
    """
    found: dict[str, list[Measure]] = {}
    for measure in parse_measures(names):
        if measure.cutoff is not None:
            found.setdefault(re.sub(r"[@._][\d.]+$", "", measure.spelling), []).append(measure)
    curves = {name: sorted(own, key=lambda m: m.cutoff) for name, own in found.items() if len(own) > 1}
    if not curves:
        raise InputError("no measure has two cutoffs, such as R@5 and R@10: there is no curve to draw")
    return curves


def plot_training(record: Mapping[str, Any], path: str | PathLike[str]) -> None:
    """Draw the curves of a training: losses, and beside them development measures if there are any.

    Args:
        record: ``{"epochs": [{"epoch": 1, "train_loss": .., "dev_loss": .., "dev": {"nDCG@10": ..}}, ..],
            "best_epoch": 1}``; values that are missing or None are not drawn.
        path: where to write the picture.

    Raises:
        InputError: no epoch, a path that cannot be written.
        DependencyError: matplotlib is missing.
    """
    epochs: Sequence[Mapping[str, Any]] = record.get("epochs") or ()
    if not epochs:
        raise InputError("the training record has no epoch to draw")
    losses = {
        label: _curve(epochs, lambda e, k=key: e.get(k))
        for label, key in (("training", "train_loss"), ("development", "dev_loss"))
    }
    names = dict.fromkeys(name for epoch in epochs for name in epoch.get("dev") or ())
    measures = {name: _curve(epochs, lambda e, n=name: (e.get("dev") or {}).get(n)) for name in names}
    panels = [
        (title, curves)
        for title, curves in (("loss", losses), ("development run", measures))
        if any(curves.values())
    ]
    if not panels:
        raise InputError("the training record has neither losses nor measures to draw")

    figure = _figure(width=4.5 * len(panels))
    for place, (title, curves) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), place)
        for label, points in curves.items():
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=_plain(label))
        if record.get("best_epoch") is not None:
            axes.axvline(record["best_epoch"], color="grey", linestyle=":", label="best epoch")
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
    _save(figure, path)


def _curve(
    epochs: Sequence[Mapping[str, Any]], value: Callable[[Mapping[str, Any]], float | None]
) -> list[tuple[float, float]]:
    return [(epoch["epoch"], value(epoch)) for epoch in epochs if value(epoch) is not None]


def _figure(width: float = 7.0) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise DependencyError("pictures need matplotlib: pip install matplotlib") from None
    # A Figure by itself, without pyplot, needs no screen and leaves the caller's backend as it is.
    return Figure(figsize=(max(width, 5.0), 4.0), layout="constrained")


def _plain(text: str) -> str:
    """Text that matplotlib does not read as a formula."""
    return text.replace("$", r"\$")


def _save(figure: Figure, path: str | PathLike[str]) -> None:
    path = Path(path)
    ending = path.suffix[1:].lower() or "png"
    known = figure.canvas.get_supported_filetypes()
    if ending not in known:
        raise InputError(f"{path}: no picture of the kind {ending!r} can be drawn; use png, pdf or svg")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist")
    try:
        with replacing(path) as temporary:
            figure.savefig(temporary, format=ending, dpi=150)
    except PermissionError:
        raise InputError(f"{path}: no permission to write in {path.parent}") from None
