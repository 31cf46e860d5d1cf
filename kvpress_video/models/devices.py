"""Where a module computes, its weights being there or offloaded."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import UnsupportedModelError


def device_of(module: nn.Module) -> torch.device:
    """The device of a module's weights, or the one that accelerate brings them to where they are offloaded.

    Raises:
        UnsupportedModelError: its weights are nowhere.
    """
    device = next(module.parameters()).device
    if device.type != "meta":
        return device
    for part in module.modules():
        execution = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
        if execution is not None:
            return torch.device(execution)
    raise UnsupportedModelError(
        f"{type(module).__name__} has no weights in memory, and nothing that brings them there: load the model with "
        "from_pretrained, with a device_map where it is large."
    )
