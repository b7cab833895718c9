"""The frozen causal language model under a reranker: any of transformers' by name or folder, checked before
use.

Only safetensors and JSON are read. `BaseModel` keeps model, tokenizer and what an adapter must know to find
the same again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qpeft_rerank.errors import DependencyError, InputError, one_line
from qpeft_rerank.models.base_checks import PROBE, check_base, check_complete
from qpeft_rerank.models.names import ENCODER_FILE, check_name, fetch_folder

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
QUANTIZATIONS = ("8bit", "4bit")
LORA_NAME = "qpeft_lora_"  # how peft's name of a LoRA that a scorer put in the model begins
DEMO_MODEL = Path(__file__).parent.parent / "demo" / "model"


@dataclass(frozen=True)
class BaseModel:
    """A loaded base model.

    Attributes:
        model: a causal language model in eval mode; none of its parameters takes a gradient.
        tokenizer: its tokenizer.
        name: the name or folder it was loaded by; revision, lora: likewise, None if there is none.
    """

    model: nn.Module
    tokenizer: Any
    name: str
    revision: str | None = None
    lora: str | None = None

    @property
    def context(self) -> int | None:
        """Longest sequence that the model takes; None where it sets no limit."""
        config = self.model.config.get_text_config()
        for key in ("max_position_embeddings", "n_positions", "max_seq_len"):
            if isinstance(getattr(config, key, None), int):
                return getattr(config, key)
        return None

    @property
    def embeddings(self) -> nn.Embedding:
        """The input embedding table, a module."""
        return self.model.get_input_embeddings()

    @property
    def device(self) -> torch.device:
        """Where the input goes."""
        return self.embeddings.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The type that the input vectors must have."""
        return self.embeddings.weight.dtype

    def describe(self) -> dict[str, Any]:
        """What figures depend on in the base model, JSON-ready, for records."""
        quantized = getattr(self.model.config, "quantization_config", None)
        if quantized is not None and hasattr(quantized, "to_dict"):
            quantized = quantized.to_dict()
        return {
            "name": self.name,
            "revision": self.revision,
            "lora": self.lora,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": self.device.type,
            "quantization": None if quantized is None else json.loads(json.dumps(quantized, default=str)),
        }

    def weight_fingerprint(self) -> Tensor:
        """Two weights of every tensor of the model [2 * tensors], fp32; NaN where a tensor is quantised.

        Two loads of one model agree up to the rounding of their types, two different models do not
        (`same_weights`).
        """
        samples = []
        for name, parameter in sorted(self.model.named_parameters()):
            if f".{LORA_NAME}" in name:
                continue
            values = parameter.detach().flatten()
            if values.dtype in DTYPES.values() and values.device.type != "meta":
                samples.append(values[[len(values) // 3, 2 * len(values) // 3]].float().cpu())
            else:
                samples.append(torch.full((2,), torch.nan))
        return torch.cat(samples)

    def tokenizer_fingerprint(self) -> str:
        """SHA-256 over what the tokenizer makes of a probe text, its size and special ids."""
        ids = self.tokenizer(PROBE, add_special_tokens=False)["input_ids"]
        facts = [ids, len(self.tokenizer), self.tokenizer.bos_token_id, self.tokenizer.eos_token_id]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def sha256(self) -> str:
        """SHA-256 over both fingerprints: it tells other weights, or another tokenizer, of the same name."""
        both = self.weight_fingerprint().numpy().tobytes() + self.tokenizer_fingerprint().encode()
        return hashlib.sha256(both).hexdigest()


def body_of(model: nn.Module) -> nn.Module:
    """A causal language model without its output layer."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # under a peft wrapper
    body = inner.base_model
    return inner.model if body is inner else body  # Llama 4 says another name than its body has


def same_weights(a: Tensor, b: Tensor) -> bool:
    """Whether two weight fingerprints are of one model, possibly in different types (bf16 keeps 8 bits)."""
    if a.shape != b.shape:
        return False
    both = ~(a.isnan() | b.isnan())
    scale = a[both].abs().mean() if both.any() else torch.tensor(0.0)
    return bool(torch.allclose(a[both], b[both], rtol=2**-7, atol=float(scale) * 2**-12))


def load_base(
    name: str | Path,
    dtype: str | None = None,
    device: str | None = None,
    device_map: str | None = None,
    quantize: str | None = None,
    lora: str | Path | None = None,
    revision: str | None = None,
    output_layer: bool = True,
) -> BaseModel:
    """Load a causal language model and its tokenizer, freeze and check it.

    Args:
        name: a Hugging Face name, a folder, or ``demo`` for the packaged small model.
        dtype: float32, bfloat16 or float16; by default bfloat16 on a GPU or CPU that computes in it, else
            float32.
        device: cpu, cuda, cuda:1 ...; by default a GPU if there is one.
        device_map: accelerate's placement over several devices ("auto"); instead of ``device``.
        quantize: 8bit or 4bit through bitsandbytes (extra ``quantized``).
        lora: folder or name of a peft LoRA that the model is to carry (merged into it, but for quantised
            models).
        revision: branch, tag or commit on the hub.
        output_layer: whether it is needed. Encoders and RankLLaMA do without, and embedding models are
            published without.

    Raises:
        InputError: it cannot be loaded, lacks weights, computes no numbers, is not causal, or model and
            tokenizer do not fit each other.
        DependencyError: quantisation without bitsandbytes.
    """
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"dtype: {dtype!r} is not one of {', '.join(DTYPES)}")
    if device is not None and device_map is not None:
        raise InputError("device and device_map exclude each other")
    device = device or default_device()
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device: {device!r} cannot be used: {one_line(error)}") from error
    name, lora = str(name), lora and str(lora)
    folder = str(DEMO_MODEL) if name == "demo" else name
    options: dict[str, Any] = {
        "dtype": DTYPES[dtype or default_dtype(device)],
        "revision": revision or "main",
    }
    if quantize is not None:
        options["quantization_config"] = _quantization(quantize)
    if device_map is not None:
        options["device_map"] = device_map
    elif quantize is not None:
        options["device_map"] = {"": device}
    if Path(folder).is_dir() and not (Path(folder) / "config.json").is_file():
        raise InputError(f"model folder {name!r} has no config.json")
    check_name(name, revision)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, revision=options["revision"])
        with without_progress_bars():
            model, loaded = AutoModelForCausalLM.from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, **options
            )
    except Exception as error:  # transformers raises anything from OSError to KeyError for a bad folder
        raise InputError(f"model {name!r} cannot be loaded: {one_line(error)}") from error
    check_complete(model, name, set(loaded["missing_keys"]), output_layer)
    if lora is not None:
        model = _with_lora(model, lora, merge=quantize is None)
    if device_map is None and quantize is None:
        model = model.to(device)
    model.eval().requires_grad_(False)
    base = BaseModel(model, tokenizer, name, revision, lora)
    check_base(base)
    return base


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """A library does not write to the user's screen."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def default_device() -> str:
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}"  # torchrun's number of this process on its machine


def default_dtype(device: str) -> str:
    """bfloat16 where the device computes in it; emulated, it would be slower than float32."""
    if device.startswith("cuda"):
        there = torch.cuda.is_bf16_supported(including_emulation=False)
    else:  # an older torch cannot tell
        features = getattr(torch.cpu, "get_capabilities", dict)() if device == "cpu" else {}
        there = any(features.get(name) for name in ("amx_bf16", "avx512_bf16", "sve_bf16"))
    return "bfloat16" if there else "float32"


def _quantization(quantize: str) -> Any:
    from transformers import BitsAndBytesConfig

    if quantize not in QUANTIZATIONS:
        raise InputError(f"quantize: {quantize!r} is not one of {', '.join(QUANTIZATIONS)}")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise DependencyError(
            'quantised models need bitsandbytes: pip install "qpeft-rerank[quantized]"'
        ) from error
    return BitsAndBytesConfig(
        load_in_8bit=quantize == "8bit",
        load_in_4bit=quantize == "4bit",
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _with_lora(model: nn.Module, lora: str, merge: bool) -> nn.Module:
    from peft import PeftModel, get_peft_model_state_dict

    from qpeft_rerank.models.lora import FOLDER, OURS, PEFTS, read_peft_config, read_weights, whole_of

    folder = fetch_folder(lora)
    if (folder / FOLDER).is_dir():  # an adapter of ours, which has it as a part
        folder = folder / FOLDER
    if not (folder / "adapter_model.safetensors").is_file():
        raise InputError(
            f"LoRA {lora!r} has no adapter_model.safetensors (a pickle, peft's form before 0.7, is not read)"
        )
    if (whole_of(folder) / ENCODER_FILE).is_file():
        raise InputError(
            f"LoRA {lora!r} is of an encoder of the dense first stage: it is the --adapter of qpeft encode"
        )
    if read_peft_config(folder).task_type == "SEQ_CLS":
        raise InputError(f"LoRA {lora!r} is of a classification: it is a RankLLaMA, an adapter by itself")
    try:
        model = PeftModel.from_pretrained(model, str(folder))
    except Exception as error:  # peft raises KeyError, RuntimeError, ValueError for a LoRA of another model
        raise InputError(f"LoRA {lora!r} does not fit the model: {one_line(error)}") from error
    there = {name.removeprefix(OURS) for name in read_weights(folder) if name.startswith(OURS)}
    wanted = {key.removeprefix(PEFTS) for key in get_peft_model_state_dict(model) if ".lora_" in key}
    if there != wanted:  # peft would leave the rest as it is: without effect
        raise InputError(
            f"LoRA {lora!r} does not fit the model: {len(there & wanted)} of its {len(there)} weights have a "
            f"place there, which has {len(wanted)} (first: {min(there ^ wanted)})"
        )
    return model.merge_and_unload() if merge else model
