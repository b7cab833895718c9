"""A language model that was trained as a whole, as a folder that transformers loads."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from qpeft_rerank.dense.config import EncoderConfig, save_encoder_config
from qpeft_rerank.files import atomic_write
from qpeft_rerank.models.base import BaseModel, without_progress_bars
from qpeft_rerank.models.lora import Lora
from qpeft_rerank.models.row_head import RowHead

SAVING = ".saving"


def save_model(
    folder: Path,
    base: BaseModel,
    lora: Lora | None,
    encoder: EncoderConfig,
    how: str,
    facts: Mapping[str, Any],
) -> None:
    """Write model, tokenizer, ``encoder.json`` and a card; each file appears whole or not at all.

    Args:
        folder: made if need be.
        base: model and tokenizer.
        lora: a LoRA in the model, merged in the files and not in the model.
        encoder: how texts are to be put to it.
        how, facts: for the card.
    """
    from transformers import GenerationConfig

    saving = folder / SAVING
    shutil.rmtree(saving, ignore_errors=True)
    saving.mkdir(parents=True)
    model, head = base.model, base.model.get_output_embeddings()
    generation = model.generation_config
    if isinstance(head, RowHead):
        model.set_output_embeddings(head.head)
    # Some models' own settings are loaded by transformers, but not saved (a temperature without sampling).
    model.generation_config = GenerationConfig.from_model_config(model.config)
    try:
        with without_progress_bars():
            model.save_pretrained(saving, state_dict=None if lora is None else _merged(base, lora))
            base.tokenizer.save_pretrained(saving)
    finally:
        model.set_output_embeddings(head)
        model.generation_config = generation
    save_encoder_config(folder, encoder)
    mode = (saving / "config.json").stat().st_mode
    for file in sorted(
        saving.iterdir(), key=lambda file: file.name == "config.json"
    ):  # it makes the folder whole
        file.chmod(mode)  # safetensors writes private files
        os.replace(file, folder / file.name)
    saving.rmdir()
    with atomic_write(folder / "README.md") as stream:
        stream.write(_card(base.name, how, facts))


def _merged(base: BaseModel, lora: Lora) -> dict[str, Tensor]:
    """The model's weights by the names they have without a LoRA, with the LoRA added."""
    names = {module: name for name, module in base.model.named_modules()}
    deltas = {names[layer]: layer.get_delta_weight(lora.name) for layer in lora.layers}
    merged = {}
    for key, weight in base.model.state_dict().items():
        if ".lora_" in key:
            continue
        delta = deltas.get(key.removesuffix(".base_layer.weight"))
        merged[key.replace(".base_layer.", ".")] = (
            weight if delta is None else weight + delta.to(weight.dtype)
        )
    return merged


def _card(name: str, how: str, facts: Mapping[str, Any]) -> str:
    """The README of the folder, in the hub's form."""
    head = [
        "---",
        "library_name: transformers",
        f"base_model: {json.dumps(name)}",
        "tags: [dense-retrieval]",
        "---",
    ]
    lines = ["", f"# `{name}`, adapted by {how}", "", "For dense retrieval: train RepLLaMA on it.", ""]
    lines += ["    qpeft train --method repllama --model THIS_FOLDER ...", ""]
    return "\n".join([*head, *lines, *(f"* {key}: {value}" for key, value in facts.items()), ""])
