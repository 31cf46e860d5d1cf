"""Where entries are in the grid of their segment."""

from __future__ import annotations

from torch import Tensor

from kvpress_video.compressor import Entries


def grid_slots(entries: Entries) -> Tensor:
    """Return the place of each entry in its grid, frame by frame and row by row, (batch, kv_heads, n) int64."""
    return entries.frame.long() * entries.grid.patches + entries.patch
