"""Put several entries into one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from kvpress_video.compressor import Entries


def averaged(entries: Entries, mean: Callable[[Tensor], Tensor], lenders: Tensor) -> Entries:
    """Means of entries: keys are un-rotated, averaged and rotated again at the mean of their positions.

    Args:
        entries: what is averaged.
        mean: maps states (batch, kv_heads, n, dim) of any dtype to their means (batch, kv_heads, m, dim).
        lenders: entries whose tags the means carry, (batch, kv_heads, m) int64.

    Returns:
        m entries; values, positions and importance are averaged as they are.
    """
    keys, rope = entries.keys.float(), entries.context.rope
    if rope is not None:
        keys = rope.rotate(keys, -entries.present)
    merged = replace(entries.gather(lenders), places=mean(entries.places))
    keys = mean(keys)
    if rope is not None:
        keys = rope.rotate(keys, merged.present)
    return replace(merged, keys=keys.to(entries.keys), values=mean(entries.values).to(entries.values))
