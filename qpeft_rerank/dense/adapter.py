"""Encoders with a LoRA: a folder of `qpeft train --method repllama`, or any peft LoRA of a causal model.

The published RepLLaMA (castorini/repllama-v1-7b-lora-passage) is a LoRA of the model's body, which has no
output layer; others are of the whole model. Both are taken: the names of the weights say which it is.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from qpeft_rerank.dense.causal import CausalEncoder
from qpeft_rerank.dense.encoder import check_probe, choose_config, known_config
from qpeft_rerank.dense.hub import commit_in
from qpeft_rerank.dense.vectors import PROBE_FILE, read_probe
from qpeft_rerank.errors import AdapterError, one_line
from qpeft_rerank.models import adapter as pair_adapter
from qpeft_rerank.models import lora
from qpeft_rerank.models.base import BaseModel, body_of, load_base
from qpeft_rerank.models.names import ENCODER_FILE


def open_adapter(
    name: str,
    model: str | None = None,
    template: str | None = None,
    batch_tokens: int | None = None,
    settings: dict[str, Any] | None = None,
    adapter_revision: str | None = None,
    **base_options: Any,
) -> CausalEncoder:
    """Load a LoRA with its base model; the arguments are those of `encoder.open_encoder`.

    ``revision`` among the options is the base model's.

    Raises:
        AdapterError: it is no LoRA, or of another kind of model than ``model``.
        InputError: our own folder's probe text gets another vector than at the training: another base model.
    """
    folder = pair_adapter.fetch_folder(name, adapter_revision)
    lora.check_whole(folder)
    ours = (folder / ENCODER_FILE).is_file() and (folder / lora.FOLDER).is_dir()
    weights = folder / lora.FOLDER if ours else folder
    config = _read_peft_json(weights)
    if model is None:
        model = config.get("base_model_name_or_path")
        if not isinstance(model, str) or not model:
            raise AdapterError(f"{weights / lora.CONFIG_FILE} names no base model: name it with --model")
        base_options.setdefault("revision", config.get("revision"))
    base = replace(load_base(model, output_layer=False, **base_options), lora=str(name))
    _carry(base, weights)
    known, commit = known_config(str(folder)), commit_in(folder)
    if (folder / PROBE_FILE).is_file():
        encoder = CausalEncoder(base, known, batch_tokens)
        # It may have been trained in bfloat16, on a GPU, and be run in float32 here.
        check_probe(encoder, read_probe(folder), folder, dtype="bfloat16")
    return CausalEncoder(base, choose_config(known, template, settings or {}), batch_tokens, commit)


def _read_peft_json(folder: Path) -> dict[str, Any]:
    path = folder / lora.CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        hint = " (it is a model: name it with --model)" if (folder / "config.json").is_file() else ""
        raise AdapterError(f"{folder} is no LoRA folder: {lora.CONFIG_FILE} cannot be read{hint}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = "a reranker of qpeft-rerank" if isinstance(config, dict) and "format" in config else "no LoRA"
        raise AdapterError(f"{path} is {kind}, not an encoder")
    if config.get("task_type") == "SEQ_CLS":
        raise AdapterError(f"{path} is of a classification: it is a RankLLaMA, for qpeft rerank")
    return config


def _carry(base: BaseModel, folder: Path) -> None:
    """Put a LoRA into the model, in place; merged into its weights unless these are quantised."""
    from peft import PeftModel

    names = {name.partition(".lora_")[0].removeprefix(lora.OURS) for name in lora.read_weights(folder)}
    owner = next((m for m in (base.model, body_of(base.model)) if _has(m, names)), None)
    if owner is None:
        raise AdapterError(f"{folder} does not fit the model {base.name!r}: it has no {sorted(names)[0]!r}")
    try:
        carrying = PeftModel.from_pretrained(owner, str(folder))
        if base.describe()["quantization"] is None:
            carrying.merge_and_unload()  # in place: the layers are put back where they were
    except Exception as error:  # peft raises KeyError, RuntimeError, ValueError for a LoRA of another model
        reason = one_line(error)
        raise AdapterError(f"{folder} does not fit the model {base.name!r}: {reason}") from error
    base.model.eval().requires_grad_(False)


def _has(model: nn.Module, names: set[str]) -> bool:
    return names <= {name for name, _ in model.named_modules()}
