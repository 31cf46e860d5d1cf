"""Constant tensors, copied to a device once, because a captured CUDA graph cannot copy them."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


@cache
def table(values: tuple[float, ...] | tuple[tuple[float, ...], ...], device: torch.device) -> Tensor:
    """Return a tensor of these values, integers as int64. Do not modify it."""
    return torch.tensor(values, device=device)
