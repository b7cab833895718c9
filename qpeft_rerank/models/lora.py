"""LoRA (Hu et al., arXiv 2106.09685), through peft: low-rank changes of the linear layers in the blocks of
the frozen model.

A LoRA is put into the base model in place, and several scorers may use one base model. So each scorer says
before it runs which LoRA is at work, its own or none (`put_to_work`); a base model without any costs nothing.

In an adapter folder it is the subfolder `lora/`, a plain peft adapter: `load_base(lora=...)` and peft's own
`PeftModel.from_pretrained` open it. Its weights have peft's names; ours are the same behind `lora.`.
"""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qpeft_rerank.errors import AdapterError, InputError, one_line
from qpeft_rerank.files import atomic_write, replacing
from qpeft_rerank.models.base import LORA_NAME, BaseModel
from qpeft_rerank.models.config import AdapterConfig
from qpeft_rerank.models.names import ENCODER_FILE

if TYPE_CHECKING:
    from peft import LoraConfig
    from peft.tuners.lora import LoraLayer

FOLDER = "lora"
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
OURS, PEFTS = "lora.", "base_model.model."  # how the names of weights begin: here, and in peft's files
_NUMBER = count()


class Lora:
    """A LoRA in a base model, from its creation on until nobody refers to it; fresh, it changes nothing (B
    is 0).

    Args:
        base: the model; its own weights stay frozen.
        config: peft's settings.

    Raises:
        InputError: the model carries a LoRA that could not be merged into it (it is quantised), or peft
            cannot put one in.
    """

    def __init__(self, base: BaseModel, config: LoraConfig):
        from peft import PeftModel, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer

        if isinstance(base.model, PeftModel):
            raise InputError("lora_rank: a quantised model that carries a LoRA cannot take another")
        self.model, self.config, self.name = base.model, config, f"{LORA_NAME}{next(_NUMBER)}"
        try:
            inject_adapter_in_model(config, base.model, self.name)
        except (ValueError, TypeError) as error:
            raise InputError(f"lora_targets: {one_line(error)} (name other layers, or fewer)") from error
        del base.model.peft_config  # peft would take the next one for a mistake
        self.layers = [m for m in base.model.modules() if isinstance(m, LoraLayer) and self.name in m.lora_A]
        for parameter in self.parameters().values():
            parameter.data = parameter.data.float()  # small, and bf16 would lose most steps of the training
        base.model.lora_at_work = self.name
        self._end = weakref.finalize(self, _take_out, base.model, self.layers, self.name)
        self._end.atexit = False

    @classmethod
    def fresh(cls, base: BaseModel, settings: AdapterConfig) -> Lora:
        """A new one as an adapter's settings say. Raises `InputError` if a target is not in the model."""
        from peft import LoraConfig
        from transformers.pytorch_utils import Conv1D

        layers = linear_layers(base.model)
        kinds = {name.rpartition(".")[2] for name in layers}
        targets = list(settings.lora_targets)
        for target in targets:
            if not any(f".{name}".endswith(f".{target}") for name in layers):
                there = ", ".join(sorted(kinds))
                raise InputError(f"lora_targets: {target!r} is no linear layer of a block: {there}")
        if not targets:  # a place in a list is no name that peft could tell from a block's
            targets = sorted(layers if any(kind.isdigit() for kind in kinds) else kinds)
        config = LoraConfig(
            r=settings.lora_rank,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            target_modules=targets,
            fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in layers.values()),
            task_type="SEQ_CLS" if settings.method == "rankllama" else "CAUSAL_LM",
            base_model_name_or_path=base.name,
            revision=base.revision,
        )
        lora = cls(base, config)
        if lora._has_more():  # before hours of training that could not be written
            raise InputError(
                "lora_targets: in this model, peft would change the experts' weights with "
                f"{', '.join(targets)}: name layers of the attention alone"
            )
        return lora

    def merge(self) -> None:
        """Add it to the model's own weights, for good: scoring then costs no more than without it.

        Beside a model in bfloat16 it computes in float32: that took longer than the packaged model itself,
        and its scores were no nearer to those all in float32. The model can have no other `Lora` at work any
        more. To a quantised model, which cannot take it, nothing happens.
        """
        if getattr(self.model.config, "quantization_config", None) is not None:
            return
        put_to_work(self.model, self)
        for layer in self.layers:
            layer.merge(adapter_names=[self.name])
        self.model.lora_merged = True
        self._end.detach()

    def parameters(self) -> dict[str, nn.Parameter]:
        """Its weights by their place in the model, as `lora.model.layers.0.mlp.up_proj.lora_A.weight`."""
        mark, dora = f".{self.name}.", "lora_magnitude_vector"
        return {
            OURS + name.replace(mark, ".").replace(f"{dora}.weight", dora): parameter  # as in peft's files
            for name, parameter in self.model.named_parameters()
            if mark in name
        }

    def train(self, mode: bool) -> None:
        """Dropout of the LoRA, and of nothing else in the model, on or off."""
        for layer in self.layers:
            layer.lora_dropout[self.name].train(mode)

    def save(self, folder: Path, head: Mapping[str, Tensor]) -> None:
        """Write a plain peft adapter; ``head``: what a classifier has beside the LoRA, by name.

        Raises:
            AdapterError: it is merged into the model, or was loaded with settings of peft that ours do not
                have.
        """
        if getattr(self.model, "lora_merged", False):
            raise AdapterError("a LoRA that is merged into its model is not written: copy its folder")
        if self._has_more():
            raise AdapterError("a LoRA of peft with more than our settings is not written: copy its folder")
        folder.mkdir(exist_ok=True)
        weights = {name.removeprefix(OURS): weight for name, weight in self.parameters().items()}
        weights = {PEFTS + k: v.detach().cpu().contiguous() for k, v in {**weights, **head}.items()}
        config = {
            **self.config.to_dict(),
            "target_modules": sorted(self.config.target_modules),
            "modules_to_save": sorted({name.partition(".")[0] for name in head}) or None,
            "inference_mode": True,
        }
        with replacing(folder / WEIGHTS_FILE, SafetensorError) as temporary:
            save_file(weights, temporary, metadata={"format": "pt"})
        with atomic_write(folder / CONFIG_FILE) as stream:
            # peft keeps some of its settings as sets, which JSON does not have.
            stream.write(json.dumps(config, indent=2, ensure_ascii=False, default=sorted) + "\n")

    def _has_more(self) -> bool:
        """Whether peft's settings say more than ours can."""
        config = self.config
        more = [config.use_rslora, config.use_dora, config.rank_pattern, config.alpha_pattern]
        more.append(getattr(config, "target_parameters", None))  # younger than the peft that is asked for
        return any(more) or isinstance(config.target_modules, str)


def put_to_work(model: nn.Module, lora: Lora | None) -> None:
    """Let this LoRA, and no other of `Lora`, change what the model computes from now on.

    It stays so, rather than until the end of a block: activations may be computed again in the backward pass.
    Raises `InputError` if another one is merged into the model.
    """
    wanted = None if lora is None else lora.name
    if getattr(model, "lora_at_work", None) == wanted:
        return
    if getattr(model, "lora_merged", False):
        raise InputError("an adapter's LoRA is merged into this base model: load the model anew for others")
    from peft.tuners.lora import LoraLayer

    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.set_adapter([] if wanted is None else [wanted])
    model.lora_at_work = wanted


def _take_out(model: nn.Module, layers: Sequence[LoraLayer], name: str) -> None:
    """Free the weights of a LoRA that nobody refers to any more."""
    if model.lora_at_work == name:
        put_to_work(model, None)
    for layer in layers:
        layer.delete_adapter(name)


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The linear layers of the blocks, by name: those under a numbered place, in any architecture.

    Not the output layer and not what only leads into or out of the blocks.
    """
    from peft.tuners.lora import LoraLayer
    from transformers.pytorch_utils import Conv1D

    found: dict[str, nn.Module] = {}
    inside = "\n"  # no name begins so

    def linear(module: nn.Module) -> bool:
        # An architecture's own kind of linear layer (a router of experts) does more, or gives more than one.
        own = type(module).__module__.startswith("transformers.models.")
        return isinstance(module, (nn.Linear, Conv1D)) and not own

    for name, module in model.named_modules():
        if name.startswith(inside):
            continue
        if isinstance(module, LoraLayer):  # from an earlier scorer; the layer itself lies in it
            found[name], inside = module.get_base_layer(), f"{name}."
        elif linear(module) and any(part.isdigit() for part in name.split(".")):
            found[name] = module
    return found


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights in a peft adapter's folder, under our names; those beside the LoRA keep theirs.

    Raises:
        AdapterError: there is no safetensors file, it is damaged, or not peft's.
    """
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise AdapterError(f"{folder} has no {WEIGHTS_FILE} (a pickle, peft's form before 0.7, is not read)")
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{path} cannot be read: {error}") from error
    named: dict[str, Tensor] = {}
    for key, weight in weights.items():
        if not key.startswith(PEFTS):
            raise AdapterError(f"{path}: {key!r} is no weight of a peft adapter")
        name = key.removeprefix(PEFTS).replace(".modules_to_save.", ".")
        named[OURS + name if ".lora_" in name else name] = weight
    return named


def whole_of(folder: Path) -> Path:
    """The folder of ours, a reranker's or an encoder's, that a LoRA's folder is a part of; else it itself."""
    place = folder.resolve()
    whole = place.parent
    inside = place.name == FOLDER and any((whole / file).is_file() for file in (CONFIG_FILE, ENCODER_FILE))
    return whole if inside else folder


def check_whole(folder: Path) -> None:
    """Raise `AdapterError` for a LoRA that is a part of an adapter, and would be used without the rest."""
    if whole_of(folder) != folder:
        raise AdapterError(f"{folder} is a part of an adapter: name the folder that it is in")


def weights_sha256(folder: Path) -> str:
    """SHA-256 of the weights in a peft adapter's folder."""
    with open(folder / WEIGHTS_FILE, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_peft_config(folder: Path) -> LoraConfig:
    """peft's settings in a folder. Raises `AdapterError` if they are not of a LoRA."""
    from peft import LoraConfig, PeftConfig

    try:
        config = PeftConfig.from_pretrained(str(folder))
    except Exception as error:  # peft raises anything from OSError to TypeError for a bad file
        raise AdapterError(f"{folder / CONFIG_FILE} is no LoRA's: {one_line(error)}") from error
    if not isinstance(config, LoraConfig):
        raise AdapterError(f"{folder / CONFIG_FILE} is no LoRA but {config.peft_type}")
    return config
