"""The README's tables, in Markdown, from a study's runs; or the lines of expected.yaml.

    python pipelines/results_table.py OUT/squad
    python pipelines/results_table.py OUT/squad-seeds --seeds
    python pipelines/results_table.py OUT/squad --yaml

OUT/squad is the OUTPUT of `study.sh`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from collect_runs import runs_on_test, study_name

from qpeft_rerank.errors import QpeftError
from qpeft_rerank.evaluation import Evaluation, evaluate
from qpeft_rerank.seeds import average_seeds, deviation

LABELS = {
    "bm25": "BM25",
    "rm3": "BM25 + RM3",
    "hard-prompt": "hard prompt",
    "soft-prompt": "soft prompt",
    "lora": "LoRA",
    "qpeft-r": "Q-PEFT-R",
    "qpeft-a": "Q-PEFT-A",
    "qpeft-a-soft": "Q-PEFT-A with soft prompt",
    "qpeft-a-lora": "Q-PEFT-A on the LoRA",
}
MEASURES = ["nDCG@10", "RR@10", "Success@1", "Success@5", "R@10", "R@50"]
EXPECTED = ["nDCG@10", "RR@10", "Success@1", "R@50"]
BESIDE = "bm25+"


def evaluated(study: Path, measures: Sequence[str]) -> dict[str, Evaluation]:
    """System -> its test run's evaluation, in the tables' order; other systems come last."""
    qrels = study / "qrels.test.txt"
    found = {s: evaluate(run, qrels, measures, name=s) for s, run in runs_on_test(study, study_name(study))}
    order = [*LABELS, *(BESIDE + system for system in LABELS)]
    base = {system: system.partition(".seed")[0] for system in found}
    known = sorted((s for s in found if base[s] in order), key=lambda s: (order.index(base[s]), s))
    return {s: found[s] for s in [*known, *(s for s in found if s not in known)]}


def label(system: str) -> str:
    """How the tables call a system."""
    beside = system.startswith(BESIDE)
    plain = system.removeprefix(BESIDE)
    return ("BM25 and " if beside else "") + LABELS.get(plain, plain)


def size_of(study: Path, system: str) -> tuple[str, str]:
    """Trained parameters and size of a system's adapter, with those of the LoRA that it was trained on, as
    text; nothing for what has none.
    """
    folder = study / f"adapter.{system.removeprefix(BESIDE)}"
    if not (folder / "training.json").exists():
        return "0" if system.endswith("hard-prompt") else "", ""
    trained = size = 0
    while True:
        record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        trained += record["trained_parameters"]
        size += sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
        lora = record["settings"]["base_model"]["lora"]  # such as OUT/squad/adapter.lora/lora
        if lora is None:
            return f"{trained:,}", f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.0f} kB"
        folder = study / Path(lora).parent.name


def main_table(study: Path) -> list[str]:
    """A row for each system, the best figure of each column in bold, with the adapters' sizes."""
    found = evaluated(study, MEASURES)
    best = {measure: max(f"{e.means[measure]:.4f}" for e in found.values()) for measure in MEASURES}
    lines = [_row(["run", *MEASURES, "trained parameters", "adapter"]), _rule(len(MEASURES) + 2)]
    for system, evaluation in found.items():
        figures = [f"{evaluation.means[measure]:.4f}" for measure in MEASURES]
        bold = [f"**{f}**" if f == best[m] else f for m, f in zip(MEASURES, figures)]
        lines.append(_row([label(system), *bold, *size_of(study, system)]))
    return lines


def seeds_table(study: Path) -> list[str]:
    """Mean and standard deviation over the seeds, of each system alone and beside BM25."""
    found = {e.name: e for e in average_seeds(evaluated(study, MEASURES[:1]).values())}
    lines = [_row(["", "alone", "beside BM25"]), _rule(2)]
    alone = [system for system in found if not system.startswith(BESIDE) and system != "rm3"]
    for system in alone:
        pair = [found.get(system), found.get(BESIDE + system)]
        lines.append(_row([label(system), *(_mean(evaluation) for evaluation in pair)]))
    return lines


def yaml_lines(study: Path) -> list[str]:
    """The lines of a study in expected.yaml."""
    found = evaluated(study, EXPECTED)
    return [
        f"  {system}: {{{', '.join(f'{m}: {evaluation.means[m]:.4f}' for m in EXPECTED)}}}"
        for system, evaluation in found.items()
    ]


def _mean(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return ""
    spread = f" ± {deviation(evaluation)[MEASURES[0]]:.4f}" if len(evaluation.seeds) > 1 else ""
    return f"{evaluation.means[MEASURES[0]]:.4f}{spread}"


def _row(cells: Sequence[str]) -> str:
    return " ".join([*(f"| {cell}".rstrip() for cell in cells), "|"])


def _rule(numbers: int) -> str:
    return _row(["---", *["---:"] * numbers])


def main() -> None:
    """Print one of the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path, help="OUTPUT of study.sh")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--seeds", action="store_true", help="means over seeds, alone and beside BM25")
    form.add_argument("--yaml", action="store_true", help="the lines of expected.yaml")
    args = parser.parse_args()
    table = seeds_table if args.seeds else yaml_lines if args.yaml else main_table
    try:
        print(*table(args.study), sep="\n")
    except QpeftError as error:
        parser.exit(2, f"results_table: {error}\n")


if __name__ == "__main__":
    main()
