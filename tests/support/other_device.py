"""A device that is not the CPU, on a machine that has none: tensors with a shape and a device but no numbers.

PyTorch's fake tensors stand on the device ``meta``. What would fail on a GPU fails on them: a tensor on the
CPU that meets one on the device, and whatever needs a number before it can go on (a GPU is waited for then).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from unittest import mock

import torch
from torch import Tensor, nn
from torch._functorch import config
from torch._subclasses.fake_tensor import FakeTensorMode

DEVICE = torch.device("meta")


@contextlib.contextmanager
def on_other_device(module: nn.Module) -> Iterator[None]:
    """Within, the weights of a module stand on `DEVICE`; afterwards it is of no use any more."""
    real_tensor, real_autocast = torch.tensor, torch.autocast

    def tensor(*args, device=None, **options) -> Tensor:
        made = real_tensor(*args, **options)
        return made if device is None else made.to(device)

    def autocast(device: str, **options) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if device == DEVICE.type else real_autocast(device, **options)

    with (
        config.patch(fake_tensor_allow_meta=True),
        FakeTensorMode(allow_non_fake_inputs=True),
        mock.patch("torch.tensor", tensor),
        mock.patch("torch.autocast", autocast),
    ):
        _move(module, {}, set())
        yield


def _move(module: nn.Module, moved: dict[int, Tensor], done: set[int]) -> None:
    """Tied weights stay tied; modules that others hold in a tuple, and so not as parts, are moved too."""
    if id(module) in done:
        return
    done.add(id(module))
    for tensors in (module._parameters, module._buffers):
        for name, there in tensors.items():
            if there is not None and id(there) not in moved:
                fake = torch.empty_strided(there.shape, there.stride(), dtype=there.dtype, device=DEVICE)
                parameter = isinstance(there, nn.Parameter)
                moved[id(there)] = nn.Parameter(fake, there.requires_grad) if parameter else fake
            tensors[name] = None if there is None else moved[id(there)]
    held = [one for value in vars(module).values() if isinstance(value, tuple) for one in value]
    for part in (*module.children(), *(one for one in held if isinstance(one, nn.Module))):
        _move(part, moved, done)
