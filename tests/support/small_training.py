"""A small training: six topics over thirty-six passages, and a run that finds some of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_models import Corpus, corpus

from qpeft_rerank.models.base import BaseModel
from qpeft_rerank.models.config import AdapterConfig
from qpeft_rerank.training.config import TrainingConfig
from qpeft_rerank.training.data import TrainingData
from qpeft_rerank.training.loop import train
from qpeft_rerank.trec import Ranking, ScoredDoc

THEMES = ["bees", "salt", "lamps", "rivers", "stone", "camels"]
PASSAGES = corpus(f"about {a}, {b} and more" for a in THEMES for b in THEMES)
TOPICS = {str(q): f"what of {theme}" for q, theme in enumerate(THEMES)}
RUN = [
    Ranking(qid, [ScoredDoc(f"d{(7 * d + q) % 36}", -float(d)) for d in range(12)])
    for q, qid in enumerate(TOPICS)
]
QRELS = {qid: {f"d{6 * q + b}": 1 for b in range(6)} for q, qid in enumerate(TOPICS)}
DATA, DEV = TrainingData(RUN[:5], TOPICS, QRELS), TrainingData(RUN[2:], TOPICS, QRELS)
FEW = TrainingConfig(epochs=3, batch_size=2, learning_rate=3e-3)


class Killed(BaseException):
    pass


def run(
    base: BaseModel,
    output: Path,
    training: TrainingConfig = FEW,
    dev: TrainingData | None = DEV,
    method: str = "qpeft-a",
    data: TrainingData = DATA,
    passages: Corpus = PASSAGES,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    chosen = AdapterConfig(
        **{"method": method, "prompt": "hints", "k": 2, "passage_tokens": 30, **(settings or {})}
    )
    return train(base, chosen, training, data, passages, output, dev, **options)


def changed(training: TrainingConfig = FEW, **changes: Any) -> TrainingConfig:
    return TrainingConfig(**{**vars(training), **changes})
