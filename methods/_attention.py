"""What the captured queries look at."""

from __future__ import annotations

import torch
from torch import Tensor

from kvpress_video.compressor import Entries
from kvpress_video.errors import MissingInputError
from kvpress_video.utils.blocks import iter_fp32_blocks


@torch.no_grad()
def attention(entries: Entries, method: str) -> Tensor:
    """Attention that each entry draws, the mean over the captured queries and the query heads of its KV head.

    The softmax runs over everything the query may see, text and the rest of an image that it sees both ways included:
    its normaliser is captured with the queries.

    Args:
        entries: with `context.queries`.
        method: who asks, for the error.

    Returns:
        (batch, kv_heads, n) fp32, between 0 and 1.

    Raises:
        MissingInputError: no queries were captured.
    """
    queries = entries.context.queries
    if queries is None:
        raise MissingInputError(f"{method!r} needs captured queries: run it inside compress() on a model.")
    heads = entries.keys.shape[1]
    states = queries.states.float().unflatten(1, (heads, -1))  # query heads of one KV head are neighbours
    normaliser = queries.normaliser.float().unflatten(1, (heads, -1))
    found = states.new_empty(entries.keys.shape[:3])
    for where, keys in iter_fp32_blocks(entries.keys):
        logits = states @ keys[:, :, None].transpose(-1, -2)  # (batch, kv_heads, shared, queries, n)
        seen = entries.index[:, :, None, None, where] <= queries.index[:, None, None, :, None]
        found[:, :, where] = torch.where(seen, (logits - normaliser[..., None]).exp(), 0.0).mean(dim=(2, 3))
    return found
