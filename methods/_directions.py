"""Norms and directions of keys and values in fp32, without a copy of them all."""

from __future__ import annotations

import torch
from torch import Tensor

from kvpress_video.compressor import Entries
from kvpress_video.utils.blocks import iter_fp32_blocks


def norms(states: Tensor) -> Tensor:
    """‖x‖₂ of each entry, (batch, kv_heads, n) fp32."""
    found = states.new_empty(states.shape[:3], dtype=torch.float32)
    for where, part in iter_fp32_blocks(states):
        torch.linalg.vector_norm(part, dim=-1, out=found[:, :, where])
    return found


def directions(keys: Tensor) -> Tensor:
    """K̂ = K / (‖K‖₂ + 1e-9), (batch, kv_heads, n, head_dim) fp32."""
    keys = keys.float()
    return keys / (keys.norm(dim=-1, keepdim=True) + 1e-9)


def mean_frame(keys: Tensor, patches: int) -> Tensor:
    """The mean of K̂ over whole frames, (batch, kv_heads, patches, head_dim) fp32."""
    total = keys.new_zeros((*keys.shape[:2], patches, keys.shape[3]), dtype=torch.float32)
    for _, part in iter_fp32_blocks(keys, patches):
        part /= part.norm(dim=-1, keepdim=True) + 1e-9
        total += part.unflatten(2, (-1, patches)).sum(dim=2)
    return total * (patches / keys.shape[2])


def mean_of_patches(entries: Entries, counted: Tensor | None = None) -> Tensor:
    """The mean of K̂ over the `counted` entries that show each patch, (batch, kv_heads, patches, head_dim) fp32.

    Matrix products: their sums are deterministic on every device, which scattered additions are not.

    Args:
        entries: where the keys come from.
        counted: (batch, kv_heads, n) bool, all when None.

    Returns:
        Zero for a patch that no counted entry shows.
    """
    keys, patch = entries.keys, entries.patch
    patches = torch.arange(entries.grid.patches, device=keys.device)
    total = keys.new_zeros((*keys.shape[:2], len(patches), keys.shape[3]), dtype=torch.float32)
    count = total.new_zeros((*total.shape[:3], 1))
    for where, part in iter_fp32_blocks(keys):
        shown = patch[:, :, None, where] == patches[:, None]
        member = (shown if counted is None else shown & counted[:, :, None, where]).float()
        part /= part.norm(dim=-1, keepdim=True) + 1e-9
        total += member @ part
        count += member.sum(dim=-1, keepdim=True)
    return total / count.clamp_min(1)


def likeness(keys: Tensor, reference: Tensor, patch: Tensor | None = None) -> Tensor:
    """⟨K̂, reference of the entry's patch⟩, (batch, kv_heads, n) fp32.

    Args:
        keys: (batch, kv_heads, n, head_dim).
        reference: (batch, kv_heads, patches, head_dim) fp32.
        patch: of each entry, (batch, kv_heads, n); None where they are whole frames in order.
    """
    found, lengths = (keys.new_empty(keys.shape[:3], dtype=torch.float32) for _ in range(2))
    patches = reference.shape[2]
    for where, part in iter_fp32_blocks(keys, patches if patch is None else 1):
        torch.linalg.vector_norm(part, dim=-1, out=lengths[:, :, where])
        if patch is None:
            part.unflatten(2, (-1, patches)).mul_(reference[:, :, None])
        else:
            part *= reference.gather(2, patch[:, :, where, None].expand_as(part))
        torch.sum(part, dim=-1, out=found[:, :, where])
    return found.div_(lengths.add_(1e-9))
