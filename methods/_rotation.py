"""Keys without their rotation."""

from __future__ import annotations

from torch import Tensor

from kvpress_video.compressor import Entries


def unrotated(entries: Entries) -> Tensor:
    """Return the keys before rotary embedding, (batch, kv_heads, n, head_dim) fp32; unchanged without a rotation."""
    keys, rope = entries.keys.float(), entries.context.rope
    return keys if rope is None else rope.rotate(keys, -entries.present)
