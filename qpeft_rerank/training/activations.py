"""Less memory for more time: a layer's activations are forgotten and computed again in the backward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from qpeft_rerank.errors import InputError


def recomputable_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of a transformers model that can be computed again.

    Raises:
        InputError: the model is not made of such layers.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise InputError(
            f"checkpoint_activations: {type(model).__name__} has no layers that can be computed again"
        )
    return layers


@contextmanager
def activations_recomputed(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Within, these layers keep no activations where gradients are recorded, and are as before after it.

    transformers' own switch heeds layers in training mode alone, and the base model never is: that would be
    its dropout.
    """
    own = [vars(layer).get("forward") for layer in layers]  # accelerate may have put one there
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer, forward in zip(layers, own, strict=True):
            if forward is None:
                del layer.forward
            else:
                layer.forward = forward
