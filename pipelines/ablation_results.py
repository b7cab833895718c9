"""What came out of ablations: figures of each variant, its test against the baseline, a picture, a table.

Figures are nDCG@10 on development topics, of the model alone and beside the first stage with the weight that
training tuned. Epoch and weight were chosen on these topics too, for each variant alike: good to compare
variants, too high as a result. Where seeds took different topics, a topic has the mean of the seeds that took
it, and the paired test is over topics.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from learning_rates import ALONE, BESIDE, MEASURE
from matplotlib.figure import Figure

from qpeft_rerank.errors import InputError
from qpeft_rerank.evaluation import Evaluation, evaluate
from qpeft_rerank.files import atomic_write
from qpeft_rerank.fusion import FusionConfig, fuse
from qpeft_rerank.models.config import AdapterConfig
from qpeft_rerank.rankings import Ranking
from qpeft_rerank.seeds import average
from qpeft_rerank.significance import compare
from qpeft_rerank.training.config import TrainingConfig
from qpeft_rerank.training.folder import DEV_RUN_FILE
from qpeft_rerank.trec import read_run

if TYPE_CHECKING:
    from ablations import Variant

    from qpeft_rerank.training.data import TrainingData

LINES_FILE = "ablations.jsonl"
NORMAL_95 = 1.96  # standard errors on either side


class Measured(NamedTuple):
    """A variant with one seed: its record, and its values by topic, alone and beside the first stage."""

    record: dict[str, Any]
    evaluations: dict[str, Evaluation]

    @classmethod
    def of(cls, record: dict[str, Any], folder: Path, dev: TrainingData) -> Measured:
        """Measure the development run of an adapter folder."""
        depth, weight = record["settings"]["depth"], record["dev"]["weight"]
        qrels = {qid: dev.qrels[qid] for qid in record["settings"]["development_topics"]}
        alone = list(read_run(folder / DEV_RUN_FILE))
        # Cut where the model ends, as the weight was tuned.
        first, second = (
            [Ranking(r.qid, r.docs[:depth]) for r in run if r.qid in qrels] for run in (dev.run, alone)
        )
        together = fuse(
            [first, second], FusionConfig("interpolation", "z-score", weights=(1 - weight, weight))
        )
        runs = {ALONE: alone, BESIDE: together}
        return cls(record, {what: evaluate(run, qrels, [MEASURE]) for what, run in runs.items()})


def summarize(
    variants: Sequence[Variant], measured: Mapping[str, Mapping[int, Measured]]
) -> list[dict[str, Any]]:
    """A JSON-ready line for each variant of an ablation; the first one is the baseline of the tests."""
    means = {
        what: [
            average([one.evaluations[what] for one in measured[v.name].values()], v.name) for v in variants
        ]
        for what in (ALONE, BESIDE)
    }
    tests = {what: (None, *compare(found).differences) for what, found in means.items()}
    lines = []
    for place, variant in enumerate(variants):
        by_seed = measured[variant.name]
        records = [one.record for one in by_seed.values()]
        line: dict[str, Any] = {
            "ablation": variant.ablation,
            "value": variant.value,
            "method": variant.settings.method,
            "baseline": variants[0].name,
            "topics": means[ALONE][place].judged,
        }
        for what, found in means.items():
            line[what] = found[place].means[MEASURE]
            if place:
                test = tests[what][place][MEASURE]
                line[f"{what}: test"] = {
                    "difference": test.difference,
                    "standard_error": test.standard_error,
                    "p": test.p,
                    "p_holm": test.p_corrected,
                    "wins, ties, losses": [test.wins, test.ties, test.losses],
                }
        line["seeds"] = {
            str(seed): {**one.record["dev"], "best_epoch": one.record["best_epoch"]}
            for seed, one in by_seed.items()
        }
        line["trained_parameters"] = records[0]["trained_parameters"]
        line["seconds"] = round(sum(record["seconds"] for record in records), 1)
        line["settings"] = _not_default(records[0]["settings"])
        lines.append(line)
    return lines


def _not_default(made: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that differ from the package's own (but the seed), with the base model."""
    adapter = AdapterConfig.from_dict(made["adapter"])
    usual = AdapterConfig(method=adapter.method).to_dict()
    usual |= asdict(TrainingConfig().for_method(adapter.method, adapter.prompt_alone))
    given = {**made["adapter"], **made["training"], "seed": usual["seed"]}
    differing = {name: value for name, value in given.items() if value != usual[name]}
    base = {"model": made["base_model"]["name"], "dtype": made["base_model"]["dtype"], "depth": made["depth"]}
    return base | differing


def write_lines(folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Put the lines of an ablation in the place of those that it had before."""
    key = (lines[0]["ablation"], lines[0]["baseline"])
    path = folder / LINES_FILE
    others = read_lines(folder) if path.exists() else []
    others = [line for line in others if (line["ablation"], line["baseline"]) != key]
    with atomic_write(path) as stream:
        stream.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in (*others, *lines))


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """What was written so far. Raises `InputError` where there is nothing yet."""
    try:
        text = (folder / LINES_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{folder}: there is no {LINES_FILE} yet") from None
    return [json.loads(line) for line in text.splitlines()]


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Text to read: the first line of each ablation is its baseline, p is Holm's."""
    rows = [["ablation", "value", "alone", "diff", "p", "with BM25", "diff", "p", "seeds", "parameters", "s"]]
    for line in lines:
        cells = []
        for what in (ALONE, BESIDE):
            test = line.get(f"{what}: test")
            cells += [f"{line[what]:.4f}", *(_test(test) if test else ("", ""))]
        counts = [len(line["seeds"]), line["trained_parameters"], round(line["seconds"])]
        ablation = f"{line['ablation']} ({line['baseline']})"
        rows.append([ablation, line["value"], *cells, *(f"{count:,}" for count in counts)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "".join(
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        + "\n"
        for row in rows
    )


def _test(test: Mapping[str, Any]) -> tuple[str, str]:
    return f"{test['difference']:+.4f}", "-" if test["p_holm"] is None else f"{test['p_holm']:.4f}"


def draw(lines: Sequence[Mapping[str, Any]], picture: Path) -> None:
    """Alone on the left, beside the first stage on the right: a dot for each seed, a bar for the mean.

    Whiskers are the 95% confidence interval of the difference from the baseline.
    """
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    baseline, *others = lines
    values = sorted(lines, key=lambda line: _number(line["value"]))  # as they are where they are no numbers
    for place, what in enumerate((ALONE, BESIDE), start=1):
        axes = figure.add_subplot(1, 2, place)
        for column, line in enumerate(values):
            seeds = [found[what] for found in line["seeds"].values() if what in found]
            axes.plot([column] * len(seeds), seeds, "o", color="#56B4E9", markersize=4)
            test = line.get(f"{what}: test") or {"p_holm": None}
            sure = test["p_holm"] is not None and test["p_holm"] < 0.05
            colour = "#D55E00" if sure else "#0072B2"
            axes.plot(column, line[what], "_", color=colour, markersize=24)
            error = NORMAL_95 * (test.get("standard_error") or 0.0)
            axes.errorbar(column, line[what], error, color=colour, capsize=4, linewidth=0.8)
        axes.axhline(baseline[what], color="grey", linestyle=":", linewidth=0.8)
        axes.set_xticks(
            range(len(values)), [line["value"].replace("-", "-\n").replace(" ", "\n") for line in values]
        )
        axes.tick_params(axis="x", labelsize="small")
        axes.margins(0.15)
        axes.set(title="alone" if what == ALONE else "with the first stage", ylabel=f"{MEASURE}, development")
    title = f"{baseline['ablation']} ({baseline['baseline']}); 95% interval of the difference"
    figure.suptitle(f"{title}, orange: p < 0.05", fontsize="medium")
    figure.savefig(picture, dpi=100)


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return 0.0
