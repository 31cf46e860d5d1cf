"""Dtypes and sizes of keys and values in stock cache layers."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer


@lru_cache
def stock_dtypes(keys: torch.dtype, values: torch.dtype) -> tuple[torch.dtype, torch.dtype]:
    """Return the dtypes in which a stock layer holds keys and values: before transformers 5.24 values follow keys."""
    held_keys, held_values = DynamicLayer().update(
        torch.zeros(1, 1, 1, 1, dtype=keys), torch.zeros(1, 1, 1, 1, dtype=values)
    )
    return held_keys.dtype, held_values.dtype


def stock_entry_bytes(keys: Tensor, values: Tensor) -> int:
    """Compute the bytes of one entry of a head in a stock layer, for keys and values of these widths and dtypes."""
    dtypes = stock_dtypes(keys.dtype, values.dtype)
    return sum(part.shape[-1] * dtype.itemsize for part, dtype in zip((keys, values), dtypes, strict=True))
