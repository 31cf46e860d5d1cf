"""Devices of modules whose weights may be offloaded, and the autocast that applies there."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import UnknownNameError, UnsupportedModelError


def parse_device(device: torch.device | str) -> torch.device:
    """Read the name of a device.

    Raises:
        UnknownNameError: no device is called that.
    """
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise UnknownNameError(f"There is no device {device!r:.80}: write 'cpu', 'cuda' or 'cuda:1'.") from error


def check_device(device: torch.device | str) -> None:
    """Check that this process can use a device.

    Raises:
        UnknownNameError: no device is called that, or this machine or torch has none.
    """
    found = parse_device(device)
    if found.type == "meta":
        raise UnknownNameError("The device 'meta' holds no values: write 'cpu', 'cuda' or 'cuda:1'.")
    try:
        torch.empty(1, device=found)
    except (AssertionError, RuntimeError, ImportError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UnknownNameError(
            f"The device {str(found)!r} cannot be used here ({reason}): write 'cpu', or run on a machine that has it, "
            "with a torch built for it."
        ) from error


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
    """Return the dtype that autocast gives the module's matrix products, None if it is off."""
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
