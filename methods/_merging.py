"""Merge entries by averaging."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from kvpress_video.compressor import Entries

from ._directions import plain_keys


def averaged(entries: Entries, mean: Callable[[Tensor], Tensor], lenders: Tensor) -> Entries:
    """Average groups of entries, with keys un-rotated before and re-rotated at the mean position after.

    Args:
        entries: entries to average.
        mean: map from states (batch, kv_heads, n, dim) of any dtype to group means (batch, kv_heads, m, dim).
        lenders: entries whose tags the means carry, (batch, kv_heads, m) int64.

    Returns:
        m entries in the dtypes of `entries`. Values, positions and importance are averaged directly, keys without a
        rotation as well.
    """
    rope = entries.context.rope
    merged = replace(entries.gather(lenders), places=mean(entries.places))
    keys = mean(plain_keys(entries))
    if rope is not None:
        keys = rope.rotate(keys, merged.present)
    return replace(merged, keys=keys.to(entries.keys), values=mean(entries.values).to(entries.values))
