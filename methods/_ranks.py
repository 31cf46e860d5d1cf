"""Ranks by score, overall or within groups."""

from __future__ import annotations

import torch
from torch import Tensor


def rank(scores: Tensor, groups: Tensor | None = None) -> Tensor:
    """Rank each entry within its group: 0 for the highest score, of equal scores the earlier entry first.

    Args:
        scores: (batch, kv_heads, n).
        groups: group of each entry, (batch, kv_heads, n) integers; one group by default.

    Returns:
        (batch, kv_heads, n) int64.
    """
    order = scores.argsort(dim=-1, descending=True, stable=True)
    place = torch.arange(scores.shape[-1], device=scores.device).expand_as(order)
    if groups is not None:
        order = order.gather(-1, groups.gather(-1, order).argsort(dim=-1, stable=True))
        sorted_groups = groups.gather(-1, order)
        first = torch.ones_like(order, dtype=torch.bool)
        first[..., 1:] = sorted_groups[..., 1:] != sorted_groups[..., :-1]
        place = place - torch.where(first, place, 0).cummax(dim=-1).values
    return torch.empty_like(order).scatter(-1, order, place)
