"""Draw the development losses of the packaged language model by the tokens that it had read.

    python pipelines/plot_pretraining.py RECORD PICTURE [LOSSES]

RECORD: such as qpeft_rerank/demo/model/pretraining.jsonl. LOSSES, such as runs/pretraining/losses.jsonl:
those on all development questions, a line for each model with ``layers``, ``tokens``, ``squad-dev``,
``nq-qed-dev``.
"""

from __future__ import annotations

import json
import sys
from itertools import groupby
from pathlib import Path

from matplotlib.figure import Figure

LOSSES = {
    "plain": "plain text",
    "squad-dev": "squad dev questions",
    "nq-dev": "nq-qed dev questions",
    "squad-dev:words in passage": "squad dev, words that stand in the passage",
    "squad-dev:other words": "squad dev, other words",
    "repeat-text": "text said twice, second time",
}


ON_ALL = {"squad-dev": "all squad dev questions", "nq-qed-dev": "all nq-qed dev questions"}


def draw(record: Path, picture: Path, on_all: Path | None = None) -> None:
    """A line for each loss; where a further run began (its learning rate rose again, its sample is another),
    it is broken and a dashed one drawn. Large marks: losses on all development questions, a shape for each
    number of layers.
    """
    points = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    runs = [list(run) for _, run in groupby(points, key=lambda point: point["run"])]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for number, (key, label) in enumerate(LOSSES.items()):
        for run in runs:
            tokens, losses = [p["tokens"] / 1e6 for p in run], [p[key] for p in run]
            axes.plot(tokens, losses, color=f"C{number}", marker=".", label=label if run is runs[0] else None)
    for run in runs[:-1]:
        axes.axvline(run[-1]["tokens"] / 1e6, color="grey", linestyle="--", linewidth=0.8)
    models = [json.loads(line) for line in on_all.read_text(encoding="utf-8").splitlines()] if on_all else []
    for layers, marker in zip(sorted({model["layers"] for model in models}), "Ds^v", strict=False):
        for color, (key, label) in zip("C1 C2".split(), ON_ALL.items(), strict=True):
            some = [(model["tokens"] / 1e6, model[key]) for model in models if model["layers"] == layers]
            text = f"{label}, {layers} layers"
            axes.plot(*zip(*some, strict=True), marker, color=color, markeredgecolor="black", label=text)
    axes.set(xlabel="million tokens read", ylabel="nats per token", ylim=(0, 8))
    axes.legend(fontsize="small", loc="upper right", ncols=2)
    figure.savefig(picture, dpi=120)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    draw(*map(Path, sys.argv[1:]))
