"""Evaluations as tables, which are strings: text to read, TSV and JSON to go on with, LaTeX to print.

One run gives one line of figures; several give their differences from the first, too (``compare``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

from qpeft_rerank.errors import InputError
from qpeft_rerank.evaluation import Evaluation
from qpeft_rerank.measures import parse_measures
from qpeft_rerank.seeds import deviation
from qpeft_rerank.significance import ALPHA, CORRECTION, FAMILIES, TEST, Comparison, Difference, compare

# Text tables are broken into several below this width: they are read in terminals and pasted into mails.
WIDTH = 100
_LONGEST_NAME = 40


def format_report(
    evaluations: Sequence[Evaluation],
    table_format: str = "text",
    per_topic: bool = False,
    comparison: Comparison | None = None,
) -> str:
    """A table of one or more evaluations, ending in a newline.

    Args:
        evaluations: the first one is the baseline of the others.
        table_format: "text" (at most 100 columns), "tsv" (one figure a line), "json", "latex" (booktabs).
        per_topic: give the values of every judged topic too (trec_eval's ``-q``).
        comparison: of these evaluations; by default made here if there are several.

    Raises: InputError for an unknown format, no evaluation, or evaluations that cannot be compared.
    """
    if table_format not in FORMATS:
        raise InputError(f"unknown table format {table_format!r}; known are {', '.join(FORMATS)}")
    if not evaluations:
        raise InputError("there is no evaluation to report")
    if comparison is None and len(evaluations) > 1:
        comparison = compare(evaluations)
    return FORMATS[table_format](evaluations, comparison, per_topic)


def _text(evaluations: Sequence[Evaluation], comparison: Comparison | None, per_topic: bool) -> str:
    shown, names = _Figures(evaluations[0].measures), _short_names(evaluations)
    tables: list[list[list[str]]] = []
    if per_topic:
        several = len(evaluations) > 1
        topics = [["topic", *(["run"] if several else []), *shown.measures]]
        for qid in evaluations[0].per_topic:
            for evaluation in evaluations:
                name = [names[evaluation.name]] if several else []
                topics.append([qid, *name, *shown.row(evaluation.per_topic[qid])])
        tables.append(topics)
    summary = [["run", *shown.measures]]
    for index, evaluation in enumerate(evaluations):
        summary.append([names[evaluation.name], *shown.row(evaluation.means)])
        if evaluation.seeds:
            spread = deviation(evaluation)
            summary.append(["  standard deviation", *(f"{spread[m]:.4f}" for m in shown.measures)])
        if comparison is not None and index > 0:
            found = comparison.differences[index - 1]
            cells = [found[m] for m in shown.measures]
            summary.append(["  difference", *map(shown.difference, shown.measures, cells)])
            summary.append([f"  p ({CORRECTION})", *(_p(d.p_corrected) for d in cells)])
            summary.append(["  wins/ties/losses", *(f"{d.wins}/{d.ties}/{d.losses}" for d in cells)])
    if comparison is not None:
        # Figures stand above each other whether a mark follows or not.
        summary = [
            [row[0], *(cell if cell.endswith("*") else cell + " " for cell in row[1:])] for row in summary
        ]
    tables.append(summary)
    parts = [
        block for table in tables for block in _blocks(table, labels=len(table[0]) - len(shown.measures))
    ]
    return "\n\n".join([*parts, "\n".join(_notes(evaluations, comparison))]) + "\n"


def _tsv(evaluations: Sequence[Evaluation], comparison: Comparison | None, per_topic: bool) -> str:
    compared = ["difference", "p", f"p_{CORRECTION.lower()}", "wins", "ties", "losses"] if comparison else []
    lines = [["run", "measure", "topic", "value", *compared]]
    baseline = evaluations[0]
    for index, evaluation in enumerate(evaluations):
        name = " ".join(evaluation.name.split())  # a tab in a file name would shift the columns
        for measure in evaluation.measures:
            if per_topic:
                for qid, values in evaluation.per_topic.items():
                    cells = [""] * len(compared)
                    if compared and index > 0:
                        cells[0] = f"{values[measure] - baseline.per_topic[qid][measure]:.6f}"
                    lines.append([name, measure, qid, f"{values[measure]:.6f}", *cells])
            cells = [""] * len(compared)
            if comparison and index > 0:
                d = comparison.differences[index - 1][measure]
                p_values = ["" if p is None else f"{p:.6g}" for p in (d.p, d.p_corrected)]
                cells = [f"{d.difference:.6f}", *p_values, *map(str, (d.wins, d.ties, d.losses))]
            lines.append([name, measure, "all", f"{evaluation.means[measure]:.6f}", *cells])
    return "".join("\t".join(line) + "\n" for line in lines)


def _json(evaluations: Sequence[Evaluation], comparison: Comparison | None, per_topic: bool) -> str:
    record: dict[str, object] = {
        "measures": list(evaluations[0].measures),
        "relevance_level": evaluations[0].relevance_level,
        "runs": [
            {
                "run": evaluation.name,
                "means": evaluation.means,
                **(
                    {"seeds": {seed.name: seed.means for seed in evaluation.seeds}}
                    if evaluation.seeds
                    else {}
                ),
                "topics": {
                    "judged": evaluation.judged,
                    "with_results": evaluation.retrieved,
                    "without_results": evaluation.missing,
                    "not_judged": evaluation.unjudged,
                },
                **({"per_topic": evaluation.per_topic} if per_topic else {}),
            }
            for evaluation in evaluations
        ],
    }
    if comparison is not None:
        record["comparison"] = {
            "baseline": comparison.baseline,
            "test": TEST,
            "topics": comparison.topics,
            "correction": CORRECTION,
            "corrected_over": FAMILIES[comparison.family],
            "alpha": ALPHA,
            "runs": [
                {"run": run, "differences": {measure: _finite(asdict(d)) for measure, d in found.items()}}
                for run, found in zip(comparison.runs, comparison.differences, strict=True)
            ],
        }
    return json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _latex(evaluations: Sequence[Evaluation], comparison: Comparison | None, per_topic: bool) -> str:
    shown = _Figures(evaluations[0].measures)
    best = {m: max(round(e.means[m], 4) for e in evaluations) for m in shown.figures} if comparison else {}
    lines = ["% needs \\usepackage{booktabs}" + (" and \\usepackage{longtable}" if per_topic else "")]
    if per_topic:
        lines += [f"\\begin{{longtable}}{{ll{'r' * len(shown.measures)}}}", "\\toprule"]
        lines += [_latex_row(["Topic", "Run", *map(_escape, shown.measures)]), "\\midrule", "\\endhead"]
        for qid in evaluations[0].per_topic:
            for e in evaluations:
                lines.append(_latex_row([_escape(qid), _escape(e.name), *shown.row(e.per_topic[qid])]))
        lines += ["\\bottomrule", "\\end{longtable}", ""]
    lines += [f"\\begin{{tabular}}{{l{'r' * len(shown.measures)}}}", "\\toprule"]
    lines += [_latex_row(["Run", *map(_escape, shown.measures)]), "\\midrule"]
    for index, evaluation in enumerate(evaluations):
        cells = []
        for measure, figure in zip(shown.measures, shown.row(evaluation.means), strict=True):
            if round(evaluation.means[measure], 4) == best.get(measure):
                figure = f"\\textbf{{{figure}}}"
            if comparison and index > 0 and comparison.differences[index - 1][measure].significant:
                figure += "\\rlap{$^{*}$}"  # no width of its own, so that the figures stay aligned
            cells.append(figure)
        lines.append(_latex_row([_escape(evaluation.name), *cells]))
    lines += ["\\bottomrule", "\\end{tabular}"]
    lines += [f"% {note}" for note in _notes(evaluations, comparison)]
    return "\n".join(lines) + "\n"


FORMATS: dict[str, Callable[[Sequence[Evaluation], Comparison | None, bool], str]] = {
    "text": _text,
    "tsv": _tsv,
    "json": _json,
    "latex": _latex,
}


class _Figures:
    """Figures as text: four decimals, as trec_eval prints them; counts without."""

    def __init__(self, measures: Sequence[str]):
        self.measures = measures
        self._counts = {m.spelling for m in parse_measures(measures) if m.family.summary == "sum"}
        self.figures = [m for m in measures if m not in self._counts]

    def row(self, values: dict[str, float]) -> list[str]:
        return [f"{values[m]:.0f}" if m in self._counts else f"{values[m]:.4f}" for m in self.measures]

    def difference(self, measure: str, found: Difference) -> str:
        if measure in self._counts:
            return f"{found.difference:+.0f}"
        # `+ 0.0` makes -0.0 of a difference that rounds to nothing 0.0
        rounded = round(found.difference, 4) + 0.0
        return (f"{rounded:+.4f}" if rounded else "0.0000") + ("*" if found.significant else "")


def _blocks(table: list[list[str]], labels: int) -> Iterator[str]:
    """Aligned text of a table, broken after WIDTH columns; each block starts with the first ``labels``."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    first = labels
    while first < len(widths):
        last, width = first, sum(widths[:labels]) + 2 * (labels - 1)
        while last < len(widths) and (last == first or width + 2 + widths[last] <= WIDTH):
            width += 2 + widths[last]
            last += 1
        yield "\n".join(
            "  ".join(
                [cell.ljust(w) for cell, w in zip(row[:labels], widths[:labels], strict=True)]
                + [cell.rjust(w) for cell, w in zip(row[first:last], widths[first:last], strict=True)]
            ).rstrip()
            for row in table
        )
        first = last


def _notes(evaluations: Sequence[Evaluation], comparison: Comparison | None) -> Iterator[str]:
    first, names = evaluations[0], _short_names(evaluations)
    level = f", relevant from grade {first.relevance_level}" if first.relevance_level != 1 else ""
    yield f"Mean over {_count(first.judged, 'judged topic')}{level}."
    if comparison is not None:
        tests = sum(d.p is not None for found in comparison.differences for d in found.values())
        over = _count(tests, "test") if comparison.family == "table" else _count(len(comparison.runs), "run")
        yield f"Differences from {names[comparison.baseline]}."
        yield f"* p < {ALPHA} in a {TEST} with {CORRECTION}'s correction over {over}."
    for e in evaluations:
        name = names[e.name]
        if e.seeds:
            yield f"{name}: mean of {len(e.seeds)} seeds, topic by topic."
        if e.missing:
            yield f"{name}: {_count(e.missing, 'judged topic')} without results, counted as 0."
        if e.unjudged:
            yield f"{name}: {_count(e.unjudged, 'topic')} not in the qrels, left out."


def _p(p: float | None) -> str:
    if p is None:
        return "-"
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"


def _finite(record: dict[str, object]) -> dict[str, object]:
    """JSON has no infinity: t is null where all topics differ by the same."""
    return {key: None if isinstance(v, float) and math.isinf(v) else v for key, v in record.items()}


def _short_names(evaluations: Sequence[Evaluation]) -> dict[str, str]:
    """Each name as a table shows it: long ones cut in the middle, unless two would look the same."""
    whole = {e.name: " ".join(e.name.split()) for e in evaluations}
    cut = {
        name: text if len(text) <= _LONGEST_NAME else f"{text[:18]}...{text[-19:]}"
        for name, text in whole.items()
    }
    return cut if len(set(cut.values())) == len(cut) else whole


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + " \\\\"


def _escape(text: str) -> str:
    special = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    special |= {"<": "\\textless{}", ">": "\\textgreater{}"} | {char: f"\\{char}" for char in "&%$#_{}"}
    return "".join(special.get(char, char) for char in " ".join(text.split()))
