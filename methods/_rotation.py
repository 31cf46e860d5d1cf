"""Keys without their rotation."""

from __future__ import annotations

from torch import Tensor

from kvpress_video.compressor import Entries


def unrotated(entries: Entries) -> Tensor:
    """Return the keys before rotary embedding, (batch, kv_heads, n, dim) fp32; embeddings before prefill as they are.

    Rotated keys would make distant frames less similar regardless of content.
    """
    keys, rope = entries.keys.float(), entries.context.rope
    return keys if rope is None else rope.rotate(keys, -entries.present)
