"""Devices of modules whose weights may be offloaded, and the autocast that applies there."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import UnsupportedModelError


def device_of(module: nn.Module) -> torch.device:
    """Find the device on which a module computes: that of its weights, or accelerate's execution device.

    Raises:
        UnsupportedModelError: the weights are neither in memory nor offloaded by accelerate.
    """
    device = _device_of(module)
    if device is not None:
        return device
    raise UnsupportedModelError(
        f"{type(module).__name__} has no weights in memory, and no hook that loads them: load the model with "
        "from_pretrained, with a device_map if it is large."
    )


def autocast_dtype(module: nn.Module) -> torch.dtype | None:
    """Return the dtype that autocast gives the module's matrix products, None where it is off."""
    device = _device_of(module)
    if device is None or not torch.amp.is_autocast_available(device.type):
        return None
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


def _device_of(module: nn.Module) -> torch.device | None:
    device = next(module.parameters()).device
    if device.type != "meta":
        return device
    for part in module.modules():
        execution = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
        if execution is not None:
            return torch.device(execution)
    return None
