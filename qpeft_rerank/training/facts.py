"""What an adapter's card says about its training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qpeft_rerank.training.config import TrainingConfig


def card_facts(
    training: TrainingConfig, facts: Mapping[str, Any], sources: Mapping[str, Any]
) -> dict[str, Any]:
    """Lines of the adapter's card: what it was trained with, and the figures of its epoch."""
    # Names, not paths: a card is published.
    lines = {key: Path(str(sources[key])).name for key in ("collection", "run") if sources.get(key)}
    lines |= {
        "epoch": facts["epoch"],
        "training topics": training.train_topics or "all",
        "seed": training.seed,
        "loss": (
            f"contrastive, temperature {training.temperature}"
            if training.loss == "contrastive"
            else f"pairwise hinge, margin {training.margin}"
        ),
        "learning rate": training.learning_rate,
    }
    if "dev_loss" in facts:
        lines["development loss"] = f"{facts['dev_loss']:.4f}"
    for name, value in facts.get("dev", {}).items():
        lines[f"development {name}"] = f"{value:.4f}"
    return lines
