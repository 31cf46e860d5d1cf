"""Attention that captured queries pay to cached entries."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kvpress_video.compressor import Entries
from kvpress_video.errors import MissingInputError
from kvpress_video.utils.blocks import iter_fp32_blocks


@torch.no_grad()
def attention(entries: Entries, method: str) -> Tensor:
    """Compute the attention that each entry receives, averaged over captured queries and the query heads of a KV head.

    Args:
        entries: entries with captured queries, `entries.context.queries`.
        method: name of the method, for the error.

    Returns:
        (batch, kv_heads, n) fp32, between 0 and 1.

    Raises:
        MissingInputError: no queries were captured.
    """
    found = entries.keys.new_empty(entries.keys.shape[:3], dtype=torch.float32)
    for where, weights in _blocks(entries, method):
        found[:, :, where] = weights.mean(dim=(2, 3))
    return found


@torch.no_grad()
def strongest_attention(entries: Entries, method: str) -> Tensor:
    """Compute the most attention that each entry receives from any captured query; see `attention`."""
    found = entries.keys.new_empty(entries.keys.shape[:3], dtype=torch.float32)
    for where, weights in _blocks(entries, method):
        found[:, :, where] = weights.amax(dim=(2, 3))
    return found


def _blocks(entries: Entries, method: str) -> Iterator[tuple[slice, Tensor]]:
    """Iterate over blocks of entries and their attention weights, (batch, kv_heads, shared, queries, m) fp32.

    The softmax runs over all keys visible to the query, text included: its normaliser is captured with the queries.
    Keys after the query are visible within the same image, if attention within images is bidirectional.
    """
    queries = entries.context.queries
    if queries is None:
        raise MissingInputError(f"{method!r} needs captured queries: run it inside compress() on a model.")
    heads = entries.keys.shape[1]
    states = queries.states.float().unflatten(1, (heads, -1))  # query heads of one KV head are adjacent
    normaliser = queries.normaliser.float().unflatten(1, (heads, -1))
    for where, keys in iter_fp32_blocks(entries.keys):
        logits = states @ keys[:, :, None].transpose(-1, -2)
        seen = entries.index[:, :, None, None, where] <= queries.index[:, None, None, :, None]
        yield where, torch.where(seen, (logits - normaliser[..., None]).exp(), 0.0)
