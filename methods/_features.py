"""Content of entries, apart from where they stand."""

from __future__ import annotations

from torch import Tensor

from kvpress_video.compressor import Entries


def features(entries: Entries) -> Tensor:
    """Return un-rotated keys, or embeddings before prefill, (batch, kv_heads, n, dim) fp32.

    Rotated keys would make distant frames less alike whatever they show.
    """
    keys, rope = entries.keys.float(), entries.context.rope
    return keys if rope is None else rope.rotate(keys, -entries.present)
