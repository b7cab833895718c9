"""An adapter is a folder: `adapter_config.json`, `adapter_model.safetensors`, a model card, and with a LoRA
the subfolder `lora/` (see `lora`). Saved, loaded, shared by name.

The folder holds all that a score depends on besides the base model, and a fingerprint of that base model and
its tokenizer: scores of another base model would be noise, so loading on one is an error unless forced.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from qpeft_rerank.errors import AdapterError, InputError, one_line
from qpeft_rerank.files import atomic_write, replacing
from qpeft_rerank.models import lora
from qpeft_rerank.models.base import BaseModel, load_base, same_weights
from qpeft_rerank.models.config import AdapterConfig
from qpeft_rerank.models.methods import make_scorer
from qpeft_rerank.models.names import CARD_FILE, ENCODER_FILE, fetch_folder
from qpeft_rerank.models.rankllama import open_checkpoint
from qpeft_rerank.models.scorer import Scorer
from qpeft_rerank.training.folder import CHECKPOINT, has_checkpoint
from qpeft_rerank.version import __version__

_log = logging.getLogger(__name__)
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
FORMAT = "qpeft-rerank adapter 1"
_FINGERPRINT = "base_model.fingerprint"
# For the card, where it is not the query likelihood of Q-PEFT.
_WHAT, _SOURCE = {"rankllama": "a linear layer on the last token of"}, {"rankllama": "2310.08319"}


def save_adapter(folder: str | Path, scorer: Scorer, training: Mapping[str, Any] | None = None) -> Path:
    """Write the trained part of ``scorer`` as an adapter folder; each file appears whole or not at all.

    Args:
        folder: made if need be.
        scorer: its settings, trained weights and base model's fingerprint are kept.
        training: facts for the model card (collection, measures ...), if there are any.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    base = scorer.base
    weights = {
        name: p.detach().cpu().contiguous()
        for name, p in scorer.trained_parameters().items()
        if not name.startswith(lora.OURS)
    }
    lora_sha256 = None
    if scorer.lora is not None:
        scorer.lora.save(folder / lora.FOLDER, scorer.classifier())
        lora_sha256 = lora.weights_sha256(folder / lora.FOLDER)
    weights[_FINGERPRINT] = base.weight_fingerprint()
    config = {
        "format": FORMAT,
        "version": __version__,
        "settings": scorer.config.to_dict(),
        "base_model": {
            "name": base.name,
            "revision": base.revision,
            "lora": base.lora,
            "tokenizer_sha256": base.tokenizer_fingerprint(),
        },
        "trained_parameters": sum(p.numel() for p in scorer.trained_parameters().values()),
        "lora_sha256": lora_sha256,  # two files of weights: do they belong together?
        "weight": scorer.weight,  # None until a training has chosen it (`keep_weight`)
    }
    with replacing(folder / WEIGHTS_FILE, SafetensorError) as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})
    with atomic_write(folder / CARD_FILE) as stream:
        stream.write(model_card(config, training or {}))
    with atomic_write(folder / CONFIG_FILE) as stream:  # last: it makes the folder whole
        stream.write(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    return folder


def load_adapter(
    name: str | Path,
    base: BaseModel | None = None,
    force: bool = False,
    revision: str | None = None,
    model: str | None = None,
    **base_options: Any,
) -> Scorer:
    """Load an adapter folder (or a repository of the hub, by name) with its base model, ready to score.

    A RankLLaMA in peft's form (see `rankllama`) is one too. It does not say which weights it was trained on,
    so that only their shapes can be checked.

    Args:
        name: folder or hub name.
        base: a base model that is loaded already; else it is loaded as the adapter says.
        force: take a base model that is not the one of the training.
        revision: the adapter's revision on the hub.
        model: name or folder of the base model, if it is elsewhere than when the adapter was trained.
        base_options: for `load_base` (dtype, device ...).

    Raises:
        AdapterError: something is missing or damaged, or this is another base model than the adapter was
            trained for.
    """
    folder = fetch_folder(name, revision)
    if (checkpoint := _rankllama_checkpoint(folder)) is not None:
        if base is None:
            options = {"revision": checkpoint.get("revision")} | base_options
            origin = model or checkpoint["base_model_name_or_path"]
            base = load_base(origin, output_layer=False, **options)
        scorer = open_checkpoint(folder, base)
        scorer.weight = 1.0  # as published: it ranks alone
        return scorer
    config = read_config(folder)
    settings = AdapterConfig.from_dict(config["settings"], folder / CONFIG_FILE)
    trained_on = config["base_model"]
    if has_checkpoint(folder / CHECKPOINT):  # it goes when the training is done
        _log.warning("%s: this training is not finished; its best weights so far are used", folder)
    weights = _read_weights(folder, config)  # before the base model, which may take minutes
    if base is None:
        options = {"lora": trained_on.get("lora"), "revision": trained_on.get("revision")} | base_options
        base = load_base(model or trained_on["name"], output_layer=settings.is_likelihood, **options)
    fingerprint = weights.pop(_FINGERPRINT, torch.empty(0))
    if not force:
        _check_base(base, fingerprint, trained_on, folder)
    scorer = make_scorer(base, settings)
    scorer.put_weights(weights, folder / WEIGHTS_FILE)
    scorer.weight = config.get("weight")
    return scorer


def keep_weight(folder: str | Path, weight: float) -> None:
    """Note in an adapter folder the model's share in a candidate's score (see `Reranker`)."""
    folder = Path(folder)
    config = {**read_config(folder), "weight": weight}
    with atomic_write(folder / CONFIG_FILE) as stream:
        stream.write(json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def restore_adapter(folder: str | Path, scorer: Scorer) -> None:
    """Put the weights of an adapter folder back into a scorer that was saved there. Raises `AdapterError`."""
    weights = _read_weights(Path(folder), read_config(Path(folder)))
    del weights[_FINGERPRINT]
    scorer.put_weights(weights, folder)


def _read_weights(folder: Path, config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """All trained weights in an adapter folder by name, and the fingerprint of its base model.

    Raises:
        AdapterError: a file is missing or damaged, or the LoRA is not the one that was saved with the rest.
    """
    path = folder / WEIGHTS_FILE
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{path} cannot be read: {error}") from error
    if config.get("lora_sha256") is not None:
        of_lora = lora.read_weights(folder / lora.FOLDER)
        if lora.weights_sha256(folder / lora.FOLDER) != config["lora_sha256"]:
            raise AdapterError(f"{folder / lora.FOLDER} is not the LoRA that was saved with {path}")
        weights |= {name: weight for name, weight in of_lora.items() if name.startswith(lora.OURS)}
    return weights


def read_config(folder: Path) -> dict[str, Any]:
    """`adapter_config.json`, checked for its format. Raises `AdapterError`."""
    path, config = folder / CONFIG_FILE, _read_json(folder)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise AdapterError(
            f"{path} is no adapter of qpeft-rerank"
            + (f" but a peft adapter of type {kind}: is it meant for --lora?" if kind else "")
        )
    weight = config.get("weight")
    if weight is not None and not (isinstance(weight, (int, float)) and 0 <= weight <= 1):
        raise AdapterError(f"{path}: weight {weight!r} is not between 0 and 1")
    settings, base = config.get("settings"), config.get("base_model")
    if not isinstance(settings, dict) or not isinstance(base, dict) or not isinstance(base.get("name"), str):
        raise AdapterError(f"{path} lacks 'settings' or the name of its 'base_model'")
    return config


def _read_json(folder: Path) -> Any:
    path = folder / CONFIG_FILE
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        if (folder / ENCODER_FILE).is_file():
            raise AdapterError(f"{folder} is an encoder of the dense first stage, not a reranker") from error
        raise AdapterError(
            f"{folder} is no adapter folder: {CONFIG_FILE} cannot be read ({error.strerror})"
        ) from error
    except ValueError as error:
        raise AdapterError(f"{path} is not JSON: {error}") from error


def _rankllama_checkpoint(folder: Path) -> dict[str, Any] | None:
    """peft's settings, if this is a peft adapter of a sequence classification, and not a part of ours."""
    config = _read_json(folder)
    if not isinstance(config, dict) or config.get("task_type") != "SEQ_CLS" or "format" in config:
        return None
    lora.check_whole(folder)
    if not isinstance(config.get("base_model_name_or_path"), str):
        raise AdapterError(f"{folder / CONFIG_FILE} lacks the name of its base model")
    return config


def push_adapter(folder: str | Path, name: str, private: bool = False, revision: str | None = None) -> str:
    """Upload an adapter folder to the hub under ``name`` (made if need be); returns its address.

    Raises:
        AdapterError: it is no adapter folder. InputError: the hub does not take it.
    """
    from huggingface_hub import HfApi

    read_config(Path(folder))
    api = HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        address = api.upload_folder(
            repo_id=name,
            folder_path=str(folder),
            revision=revision,
            allow_patterns=["*.json", "*.safetensors", "*.md", "*.png"],
        )
    except Exception as error:  # the hub's, httpx's and the system's errors have no common base
        raise InputError(f"the hub does not take {name!r}: {one_line(error)}") from error
    return str(address)


def model_card(config: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    """The README of an adapter folder, in the hub's form."""
    base, settings = config["base_model"], config["settings"]
    lines = [
        "---",
        "library_name: qpeft-rerank",
        f"base_model: {json.dumps(base['name'])}",
        "tags: [reranking, q-peft]",
        "---",
        "",
        f"# {settings['method']} reranker",
        "",
        f"Re-orders the passages of a TREC run by {_WHAT.get(settings['method'], 'query likelihood of')} "
        f"`{base['name']}`, with {config['trained_parameters']:,} trained parameters (method "
        f"`{settings['method']}`, arXiv {_SOURCE.get(settings['method'], '2404.04522')}).",
        "",
        "    qpeft rerank --adapter THIS_FOLDER --topics TOPICS --index INDEX RUN",
        "",
    ]
    if settings["lora_rank"]:
        lines += [f"`{lora.FOLDER}/` is its LoRA, of rank {settings['lora_rank']}, as peft reads it.", ""]
    if training:
        lines += ["## Training", "", *(f"* {key}: {value}" for key, value in training.items()), ""]
    lines += ["## Settings", "", "```json", json.dumps(settings, indent=2, ensure_ascii=False), "```", ""]
    return "\n".join(lines)


def _check_base(
    base: BaseModel, fingerprint: torch.Tensor, trained_on: Mapping[str, Any], folder: Path
) -> None:
    hint = "use its base model, or force it if you know better"
    if trained_on.get("tokenizer_sha256") != base.tokenizer_fingerprint():
        raise AdapterError(
            f"{folder} was trained for another tokenizer than that of {base.name!r} "
            f"(for {trained_on['name']!r}): {hint}"
        )
    if not same_weights(fingerprint, base.weight_fingerprint()):
        raise AdapterError(
            f"{folder} was trained for another base model than {base.name!r} "
            f"(for {trained_on['name']!r}): {hint}"
        )
