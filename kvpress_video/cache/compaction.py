"""Compact positions: each token's position without the gaps of evicted ones, and cached keys re-rotated to it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..compressor.entries import Entries, Kind, Places, Tags
from ..compressor.rope import Rope


def compact(tags: Tensor, position: Tensor, ratios: Sequence[Mapping[int, float]], shifts: Sequence[int],
            spatial: bool) -> tuple[Tensor, list[int]]:  # fmt: skip
    """Compute the compact positions of a pass, the same in every layer and head.

    Within each run of frames, time is scaled by the kept ratio of the segment's visual tokens, from the run's first
    position on. Rows and columns keep their offsets (M-RoPE), and everything after the run moves down to follow it.
    With 1-D positions the only axis is scaled. Labels between frames are part of the run and are scaled with their
    frames; rows and columns then keep their offsets from the time of their frame. Other text keeps its spacing.

    Args:
        tags: (batch, n, Tags.WIDTH), on the host.
        position: (batch, n, 3) original (t, h, w), on the host.
        ratios: per row, kept fraction per segment ordinal of this pass.
        shifts: per row, by how much earlier passes have moved positions down.
        spatial: whether h and w are separate axes (M-RoPE).

    Returns:
        New positions (batch, n, 3) fp32, and per row by how much more later tokens move down.
    """
    old = position.double().numpy()
    new = np.empty_like(old)
    later = []
    kinds = tags[..., Tags.KIND].numpy()
    for row, segments in enumerate(tags[..., Tags.SEGMENT].numpy()):
        shift = shifts[row]
        for run in np.split(np.arange(len(segments)), np.flatnonzero(np.diff(segments)) + 1):
            ratio = ratios[row].get(int(segments[run[0]]))
            if ratio is None:
                new[row, run] = old[row, run] - shift
                continue
            origin = old[row, run[0], 0]
            offset = old[row, run] - origin
            follows = run[-1] + 1 < len(segments)
            extent = old[row, run[-1] + 1, 0] - origin if follows else offset.max() + 1
            squeezed = math.ceil((offset[:, 0].max() + 1) * ratio)
            if not spatial:
                offset *= ratio
            elif (kinds[row, run] == Kind.LABEL).any():
                offset -= offset[:, :1] * (1 - ratio)
                squeezed = math.ceil(offset.max()) + 1
            else:
                squeezed = max(squeezed, int(offset[:, 1:].max()) + 1)
                offset[:, 0] *= ratio
            new[row, run] = origin - shift + offset
            shift += int(extent) - min(int(extent), squeezed)
        later.append(shift - shifts[row])
    return torch.from_numpy(new).float(), later


def moved(entries: Entries, target: Tensor, rope: Rope) -> Entries:
    """Return entries whose places and keys are moved to (t, h, w) `target`, (batch, kv_heads, n, 3)."""
    keys = rope.rotate(entries.keys, target - entries.present)
    places = torch.cat([entries.places[..., : Places.WIDTH], target, target], dim=-1)
    return replace(entries, keys=keys, places=places)
