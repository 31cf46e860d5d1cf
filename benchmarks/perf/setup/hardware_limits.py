"""Peak rates of a device, measured on it."""

from __future__ import annotations

import torch

from .timing import medians

_ROUNDS = 5
_COPIED = {"cuda": 2**31, "cpu": 2**28}  # bytes, far more than processor caches hold
_SIDE = {"cuda": 8192, "cpu": 1024}


def copy_rate(device: torch.device) -> float:
    """Bytes per second of copying a large tensor, reads and writes both counted."""
    source = torch.zeros(_COPIED[device.type], dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    spent = medians({"copy": lambda: target.copy_(source)}, device, _ROUNDS)["copy"]
    return 2 * source.nbytes / spent


def arithmetic_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product, multiplications and additions both counted."""
    side = _SIDE[device.type]
    one, other = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
    out = torch.empty_like(one)
    spent = medians({"product": lambda: torch.mm(one, other, out=out)}, device, _ROUNDS)["product"]
    return 2 * side**3 / spent
