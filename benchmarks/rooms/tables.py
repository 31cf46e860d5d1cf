"""Constants on a device, copied there once: a captured CUDA graph cannot copy them."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


@cache
def table(values: tuple[float, ...] | tuple[tuple[float, ...], ...], device: torch.device) -> Tensor:
    """Return a tensor of these values, whole numbers as int64; it must not be changed."""
    return torch.tensor(values, device=device)
