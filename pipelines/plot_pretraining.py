"""Draw the development losses of the packaged language model by the tokens that it had read.

python pipelines/plot_pretraining.py qpeft_rerank/demo/model/pretraining.jsonl runs/pretraining.png
"""

from __future__ import annotations

import json
import sys
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


def draw(record: Path, picture: Path) -> None:
    """One line for each loss, a dashed one where a further run began (its learning rate rose again)."""
    points = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for key, label in LOSSES.items():
        axes.plot([p["tokens"] / 1e6 for p in points], [p[key] for p in points], marker=".", label=label)
    for before, after in zip(points, points[1:], strict=False):
        if after["run"] != before["run"]:
            axes.axvline(before["tokens"] / 1e6, color="grey", linestyle="--", linewidth=0.8)
    axes.set(xlabel="million tokens read", ylabel="nats per token", ylim=(0, 8))
    axes.legend(fontsize="small")
    figure.savefig(picture, dpi=120)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
