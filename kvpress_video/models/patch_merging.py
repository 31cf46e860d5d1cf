"""Vision towers over one sequence of all items' patches, ordered by merge block within each frame."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..compressor.entries import Grid


def spatial(states: Tensor, grid: Grid, merge: int, order: Tensor | None = None) -> Tensor:
    """Reorder the states of an item's patches from the tower's order to rows of each frame.

    Args:
        states: (grid.tokens·merge², heads, d), merge² patches per token.
        grid: visual tokens of the item.
        merge: patches along the side of a token.
        order: token at each place of the tower's sequence, (grid.tokens,) int64; row-major by default.

    Returns:
        (frames, heads, patches of a frame in row-major order, d).
    """
    heads, width = states.shape[1:]
    units = states.reshape(grid.tokens, merge**2, heads, width)
    if order is not None:
        units = units[order.argsort()]
    patches = units.reshape(grid.frames, grid.rows, grid.columns, merge, merge, heads, width)
    return patches.permute(0, 5, 1, 3, 2, 4, 6).reshape(grid.frames, heads, -1, width)


def summed(importance: Tensor, grid: Grid, merge: int) -> Tensor:
    """Sum importance over the patches of each token: (frames, patches in row-major order) to (grid.tokens,)."""
    return importance.reshape(grid.frames, grid.rows, merge, grid.columns, merge).sum(dim=(2, 4)).flatten()


def turned(states: Tensor, position_embeddings: Sequence[Tensor]) -> Tensor:
    """Rotate states, (patches, heads, d), in fp32 by the tower's cos and sin, (patches, d) each."""
    cos, sin = (part.float()[:, None] for part in position_embeddings)
    states = states.float()
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat([-second, first], dim=-1) * sin
