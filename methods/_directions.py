"""Norms and directions of keys and values in fp32, computed block by block to bound the working memory."""

from __future__ import annotations

import torch
from torch import Tensor

from kvpress_video.compressor import Entries
from kvpress_video.utils.blocks import iter_fp32_blocks


def norms(states: Tensor) -> Tensor:
    """Compute ‖x‖₂ of each entry: (batch, kv_heads, n, dim) to (batch, kv_heads, n) fp32."""
    found = states.new_empty(states.shape[:3], dtype=torch.float32)
    for where, part in iter_fp32_blocks(states):
        torch.linalg.vector_norm(part, dim=-1, out=found[:, :, where])
    return found


def directions(keys: Tensor) -> Tensor:
    """Normalise keys to K̂ = K / (‖K‖₂ + 1e-9), (batch, kv_heads, n, head_dim) fp32."""
    keys = keys.float()
    return keys / (keys.norm(dim=-1, keepdim=True) + 1e-9)


def plain_keys(entries: Entries) -> Tensor:
    """Un-rotate the keys, (batch, kv_heads, n, head_dim) fp32; keys without a rotation are only converted."""
    keys, rope = entries.keys.float(), entries.context.rope
    return keys if rope is None else rope.rotate(keys, -entries.present)


def mean_frame(keys: Tensor, patches: int) -> Tensor:
    """Average K̂ over whole frames: keys (batch, kv_heads, frames·patches, head_dim) to (…, patches, head_dim) fp32."""
    total = keys.new_zeros((*keys.shape[:2], patches, keys.shape[3]), dtype=torch.float32)
    for _, part in iter_fp32_blocks(keys, patches):
        part /= part.norm(dim=-1, keepdim=True) + 1e-9
        total += part.unflatten(2, (-1, patches)).sum(dim=2)
    return total * (patches / keys.shape[2])


def mean_of_patches(entries: Entries, counted: Tensor | None = None) -> Tensor:
    """Average K̂ over the entries of each patch.

    Sums are computed as matrix products, which are deterministic on every device; scattered additions are not.

    Args:
        entries: entries of one segment.
        counted: entries that count, (batch, kv_heads, n) bool; all by default.

    Returns:
        (batch, kv_heads, patches, head_dim) fp32, zero for a patch without counted entries.
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
    """Compute the inner product of each K̂ with the reference of its patch.

    Args:
        keys: (batch, kv_heads, n, head_dim).
        reference: (batch, kv_heads, patches, head_dim) fp32.
        patch: patch of each entry, (batch, kv_heads, n) int64; None for whole frames in order.

    Returns:
        (batch, kv_heads, n) fp32.
    """
    found, lengths = (keys.new_empty(keys.shape[:3], dtype=torch.float32) for _ in range(2))
    patches, rows, lines = reference.shape[2], reference.flatten(0, 2), None
    if patch is not None:  # whole rows are copied much faster than number by number
        lines = patch + patches * torch.arange(len(rows) // patches, device=keys.device).view(*keys.shape[:2], 1)
    for where, part in iter_fp32_blocks(keys, patches if patch is None else 1):
        torch.linalg.vector_norm(part, dim=-1, out=lengths[:, :, where])
        if lines is None:
            part.unflatten(2, (-1, patches)).mul_(reference[:, :, None])
        else:
            part *= rows.index_select(0, lines[:, :, where].flatten()).view(part.shape)
        torch.sum(part, dim=-1, out=found[:, :, where])
    return found.div_(lengths.add_(1e-9))
