"""Vision towers that take the patches of all items in one sequence, merge block by merge block of each frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..compressor.entries import Grid


def spatial(states: Tensor, grid: Grid, merge: int, order: Tensor | None = None) -> Tensor:
    """(patches of an item as the tower orders them, heads, d) -> (frames, heads, patches of a frame in rows, d).

    Args:
        states: merge² patches to a token.
        grid: the item's tokens.
        merge: patches along the side of a token.
        order: token at each place of the tower's sequence, (grid.tokens,); frame by frame and row by row by default.
    """
    heads, width = states.shape[1:]
    units = states.reshape(grid.tokens, merge**2, heads, width)
    if order is not None:
        units = units[order.argsort()]
    patches = units.reshape(grid.frames, grid.rows, grid.columns, merge, merge, heads, width)
    return patches.permute(0, 5, 1, 3, 2, 4, 6).reshape(grid.frames, heads, -1, width)


def summed(importance: Tensor, grid: Grid, merge: int) -> Tensor:
    """(frames, patches of a frame in rows) -> (grid.tokens,), summed over the patches of each token."""
    return importance.reshape(grid.frames, grid.rows, merge, grid.columns, merge).sum(dim=(2, 4)).flatten()


def turned(states: Tensor, position_embeddings: Sequence[Tensor]) -> Tensor:
    """(patches, heads, d) rotated in fp32 by the tower's (cos, sin), (patches, d) each."""
    cos, sin = (part.float()[:, None] for part in position_embeddings)
    states = states.float()
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat([-second, first], dim=-1) * sin


def join(outputs: Sequence[Any], grids: Sequence[Grid], order: Sequence[int]) -> Any:
    """As `Adapter.join`: patches or tokens of all items in a tensor, or tokens of each item in a tuple, or several such
    in a list or an output."""
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
    unit = len(flat) // sum(grid.tokens for grid in grids)  # patches to a token, or 1
    items = flat.split([unit * grid.tokens for grid in grids])
    return [items[number] for number in order]
