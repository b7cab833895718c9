"""Draw the development losses of the packaged language model by the tokens that it had read.

python pipelines/plot_pretraining.py qpeft_rerank/demo/model/pretraining.jsonl runs/pretraining.png
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


def draw(record: Path, picture: Path) -> None:
    """A line for each loss; where a further run began (its learning rate rose again, its sample is another),
    it is broken and a dashed one drawn.
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
    axes.set(xlabel="million tokens read", ylabel="nats per token", ylim=(0, 8))
    axes.legend(fontsize="small", loc="upper right", ncols=2)
    figure.savefig(picture, dpi=120)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
