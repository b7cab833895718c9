"""What all rerankers on a frozen base model share: the model stays as it is, a small part is trained."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from qpeft_rerank.errors import AdapterError
from qpeft_rerank.models.base import BaseModel
from qpeft_rerank.models.batch import Batch
from qpeft_rerank.models.config import AdapterConfig
from qpeft_rerank.models.inputs import PairEncoder
from qpeft_rerank.models.lora import Lora
from qpeft_rerank.models.on_base import OnBaseModel


class Scorer(OnBaseModel):
    """Frozen base model + trained part -> a score for each (query, passage) pair.

    A subclass sets ``encoder`` and says in `forward` how a batch is scored; before it runs the model it calls
    `lora.put_to_work`.

    Args:
        base: the language model.
        config: the settings; with ``lora_rank`` above 0 the model gets a LoRA, which is trained too.
        lora: one that is in the model already, instead.
    """

    encoder: PairEncoder
    weight: float | None = None  # its share in a candidate's score (see `Reranker`), if training chose one

    def __init__(self, base: BaseModel, config: AdapterConfig, lora: Lora | None = None):
        super().__init__(base)
        self.config, self.model = config, base.model
        self.lora = Lora.fresh(base, config) if lora is None and config.lora_rank else lora

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """What training changes and an adapter folder keeps, by name; the LoRA's begin with `lora.`."""
        own = {name: p for name, p in self.named_parameters() if not name.startswith("model.")}
        return own if self.lora is None else {**own, **self.lora.parameters()}

    def classifier(self) -> dict[str, Tensor]:
        """What a sequence classifier of transformers has beside its LoRA, by its name there."""
        return {}

    def put_weights(self, weights: Mapping[str, Tensor], where: object) -> None:
        """Copy trained weights in. Raises `AdapterError` unless names and shapes are exactly those it has."""
        parameters = self.trained_parameters()
        for name in sorted(set(parameters) ^ set(weights)):
            raise AdapterError(
                f"{where}: {name!r} is {'missing' if name in parameters else 'not a weight of this method'}"
            )
        with torch.no_grad():
            for name, parameter in parameters.items():
                if parameter.shape != weights[name].shape:
                    shapes = f"{list(weights[name].shape)}, not {list(parameter.shape)}"
                    raise AdapterError(f"{where}: {name!r} has shape {shapes}")
                parameter.copy_(weights[name])

    def forward(self, batch: Batch) -> Tensor:
        """A score for each pair, [B], fp32; higher is better."""
        raise NotImplementedError
