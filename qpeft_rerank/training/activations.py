"""Less memory for more time: a layer's activations are forgotten and computed again in the backward pass."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from qpeft_rerank.errors import InputError


def recompute_activations(model: nn.Module) -> None:
    """Make every layer of a transformers model do so, wherever gradients are recorded.

    transformers' own switch heeds layers in training mode alone, and the base model never is: that would be
    its dropout.

    Raises:
        InputError: the model is not made of such layers.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise InputError(
            f"checkpoint_activations: {type(model).__name__} has no layers that can be computed again"
        )
    for layer in layers:
        if not isinstance(layer.forward, partial):  # else it was done before
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
