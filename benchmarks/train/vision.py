"""Run frames of 112 × 112 pixels through a vision tower in batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

GRID = 8
"""Patches along a side of the 112-pixel view."""
MERGED = 4
"""Merged visual tokens along a side."""
TOKENS = MERGED * MERGED
"""Visual tokens a frame."""
PATCH = 14
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Normalisation of pixels of 0 … 1 in the processors."""


def vision_rotation(head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosines and sines `(64, head_dim)` for the patches of one frame, in the order of merged tokens."""
    rates = 1e4 ** -(torch.arange(0, head_dim // 2, 2, device=device) / (head_dim // 2))
    row, column = torch.meshgrid(*(torch.arange(GRID, device=device),) * 2, indexing="ij")
    angles = torch.cat([merged_order(place)[:, None] * rates for place in (row, column)], dim=-1)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def merged_order(grid: Tensor) -> Tensor:
    """Flatten an (8, 8) grid of patches so that the four patches of a merged token are neighbours."""
    return grid.view(MERGED, 2, MERGED, 2).transpose(1, 2).reshape(-1)


def patchify(video: Tensor) -> Tensor:
    """Cut normalised frames into patches `(B · T, 64, 1176)`, in the processor's order.

    Args:
        video: (B, T, 2, 3, 112, 112), or (B, T, 1, 3, 112, 112) where both video frames are the same.
    """
    batch, frames = video.shape[:2]
    video = video.expand(-1, -1, 2, -1, -1, -1)
    patches = video.unflatten(-1, (MERGED, 2, PATCH)).unflatten(-4, (MERGED, 2, PATCH))
    return patches.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9).reshape(batch * frames, GRID * GRID, -1)


def through_blocks(visual: Any, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Iterator[Tensor]:
    """Run embedded patches `(N, 64, width)` through the blocks of `visual`, and yield the output of each.

    The stock module loops over frames. The results are equal for 112 × 112 frames, whose attention is all full.
    """
    cos, sin = (part.to(x.dtype) for part in rotation)
    for block in visual.blocks:
        attention = block.attn
        qkv = attention.qkv(block.norm1(x)).view(*x.shape[:2], 3, attention.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        query, key = (part * cos + _rotate_half(part) * sin for part in (query, key))
        weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
        mixed = weights.to(value.dtype) @ value
        x = x + attention.proj(mixed.transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
        yield x


def _rotate_half(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)
