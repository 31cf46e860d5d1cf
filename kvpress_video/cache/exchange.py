"""Exchange entries of a layer for the same number of others."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..compressor.entries import Context, Entries
from .layer import CompressedLayer


def exchange(layer: CompressedLayer, row: int, index: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Replace the keys and values of tokens that every head of a row holds, and return the previous ones.

    Args:
        layer: layer that holds the tokens.
        row: index of the row.
        index: original token indices, ascending, (n,) int64.
        keys, values: (kv_heads, n, head_dim) each.
    """
    entries = layer.entries(Context())
    slots = slots_of(entries.index[row], index)
    old = entries.rows([row]).gather(slots[None])
    exchange_entries(layer, row, slots[None], replace(old, keys=keys[None], values=values[None]))
    return old.keys[0], old.values[0]


def exchange_entries(layer: CompressedLayer, row: int, slots: Tensor, new: Entries) -> None:
    """Replace the entries in some slots of a row.

    Args:
        layer: layer with the slots.
        row: index of the row.
        slots: (1, kv_heads, n) int64.
        new: (1, kv_heads, n, …), on any device.
    """
    held, parts = layer.entries(Context()), []
    for name in ("keys", "values", "tags", "places"):
        whole, part = getattr(held, name).clone(), getattr(new, name)[0]
        whole[row].scatter_(1, slots[0, ..., None].expand_as(part), part.to(whole))
        parts.append(whole)
    layer.replace(Entries(*parts), layer.rows)


def slots_of(held: Tensor, index: Tensor) -> Tensor:
    """Return the slot of each token index (n,) in every head, (heads, n) int64; the slot of another token if a head
    does not hold it.

    Args:
        held: token index of each slot, ascending, (heads, slots) int32.
        index: ascending, (n,) integers on any device.
    """
    wanted = index.to(held).expand(len(held), -1)
    return torch.searchsorted(held.contiguous(), wanted.contiguous()).clamp_max(held.shape[1] - 1)
