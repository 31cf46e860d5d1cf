"""Convert keys and values to fp32 block by block, to save memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_LEAST, _STRETCHES = 2**16, 14  # minimum numbers per block, maximum number of larger blocks


def iter_fp32_blocks(states: Tensor, unit: int = 1) -> Iterator[tuple[slice, Tensor]]:
    """Yield blocks of entries of (batch, kv_heads, n, dim) with their slices; a block is a multiple of `unit` entries.

    Blocks are fp32, in memory that is reused for the next one; selections based on them have no gradient.
    """
    states = states.detach()
    batch, heads, length, width = states.shape
    most = max(_LEAST, states.numel() // _STRETCHES) // (batch * heads * width)
    step = max(1, min(max(unit, most - most % unit), length))
    room = states.new_empty((batch, heads, step, width), dtype=torch.float32)
    for start in range(0, length, step):
        where = slice(start, min(start + step, length))
        yield where, room[:, :, : where.stop - start].copy_(states[:, :, where])
