"""Vision towers over one sequence of all items' patches, ordered by merge block within each frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


def join(outputs: Sequence[Any], grids: Sequence[Grid], order: Sequence[int]) -> Any:
    """Join outputs as `Adapter.join` does.

    An output is a tensor of all items' patches or tokens, a tuple with one tensor of tokens per item, or a list or
    model output of these.
    """
    first = outputs[0]
    if isinstance(first, dict):
        return type(first)(**{name: join([each[name] for each in outputs], grids, order) for name in first})
    if isinstance(first, Tensor):
        flat = torch.cat(list(outputs))
        return flat if len(order) == len(grids) else torch.cat(_by_item(flat, grids, order))
    if isinstance(first, tuple) and isinstance(first[0], Tensor):
        return tuple(_by_item(torch.cat([tokens for each in outputs for tokens in each]), grids, order))
    return type(first)(join(level, grids, order) for level in zip(*outputs, strict=True))


def _by_item(flat: Tensor, grids: Sequence[Grid], order: Sequence[int]) -> list[Tensor]:
    unit = len(flat) // sum(grid.tokens for grid in grids)  # patches per token, or 1
    items = flat.split([unit * grid.tokens for grid in grids])
    return [items[number] for number in order]
