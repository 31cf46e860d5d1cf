"""Join the outputs of several calls of a vision tower, item by item."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..compressor.entries import Grid


def join(outputs: Sequence[Any], grids: Sequence[Grid], order: Sequence[int]) -> Any:
    """Join outputs as `Adapter.join` does.

    An output is a tensor of all items' patches, tokens or pictures, a tuple with one tensor of tokens per item, or a
    list or model output of these.
    """
    first = outputs[0]
    if isinstance(first, dict):
        return of_fields(outputs, lambda parts: join(parts, grids, order))
    if isinstance(first, Tensor):
        flat = torch.cat(list(outputs))
        return flat if len(order) == len(grids) else torch.cat(_by_item(flat, grids, order))
    if isinstance(first, tuple) and isinstance(first[0], Tensor):
        return tuple(_by_item(torch.cat([tokens for each in outputs for tokens in each]), grids, order))
    return type(first)(join(level, grids, order) for level in zip(*outputs, strict=True))


def of_fields(outputs: Sequence[Any], joined: Callable[[Sequence[Any]], Any]) -> Any:
    """Join model outputs field by field; `pooler_output` may be an attribute of a type without such a field."""
    first = outputs[0]
    whole: Any = type(first)(**{name: joined([each[name] for each in outputs]) for name in first})
    if "pooler_output" not in first and hasattr(first, "pooler_output"):
        whole.pooler_output = joined([each.pooler_output for each in outputs])
    return whole


def _by_item(flat: Tensor, grids: Sequence[Grid], order: Sequence[int]) -> list[Tensor]:
    tokens = sum(grid.tokens for grid in grids)
    items = flat.split([len(flat) * grid.tokens // tokens for grid in grids])
    return [items[number] for number in order]
