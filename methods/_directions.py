"""Directions of keys, and what they are compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from kvpress_video.entries import Entries


def directions(entries: Entries) -> Tensor:
    """K̂ = K / (‖K‖₂ + 1e-9) of the cached keys, (batch, kv_heads, n, head_dim) fp32."""
    keys = entries.keys.float()
    return keys / (keys.norm(dim=-1, keepdim=True) + 1e-9)


def mean_of_patch(states: Tensor, entries: Entries, counted: Tensor | None = None) -> Tensor:
    """For each entry, the mean state of the `counted` entries of its head that show the same patch.

    One matrix product: the sums are deterministic on every device, which scattered additions are not.

    Args:
        states: (batch, kv_heads, n, dim) fp32.
        entries: where the states come from.
        counted: (batch, kv_heads, n) bool, all when None.

    Returns:
        (batch, kv_heads, n, dim); zero for a patch that no counted entry shows.
    """
    patch = entries.patch.long()
    patches = torch.arange(entries.grid.patches, device=states.device)
    shown = patch[:, :, None, :] == patches[:, None]
    if counted is not None:
        shown = shown & counted[:, :, None, :]
    member = shown.float()
    means = member @ states / member.sum(dim=-1, keepdim=True).clamp_min(1)
    return means.gather(2, patch[..., None].expand_as(states))
