"""Compression before prefill: visual embeddings are dropped or merged before they enter the text model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..cache.allocation import Shares
from ..cache.eviction import plan_eviction
from ..cache.forward_pass import ForwardPass, RowState
from ..compressor.base import Compressor
from ..compressor.entries import Context, Entries, is_visual
from ..errors import CacheError
from ..models.base import Adapter
from ..models.routing import first_router


def drop_embeddings(
    adapter: Adapter,
    method: Compressor,
    arguments: dict[str, Any],
    forward_pass: ForwardPass,
    rows: Sequence[RowState],
    shares: Shares,
) -> ForwardPass:
    """Shorten the text model's embeddings and aligned features; the cache still counts all tokens as seen.

    Args:
        arguments: arguments of the text model; embeddings and deepstack features are replaced.
        forward_pass: the whole pass.
        rows: row states before it.
        shares: entries to keep.

    Returns:
        The remaining pass.

    Raises:
        CacheError: videos that are already in the cache would have to be compressed again.
    """
    for row, share in zip(rows, shares, strict=True):
        if not all(share[segment].holds(row, segment) for segment in row.held):
            raise CacheError("stage='input' cannot shrink earlier videos to make room: use a ratio or stage='cache'.")
    embeddings = arguments["inputs_embeds"][:, None]
    aligned = adapter.take_aligned(arguments)
    values = embeddings[..., :0] if aligned is None else aligned[:, None]
    context = Context(router=first_router(adapter) if "router" in method.needs else None)
    entries = Entries(embeddings, values, forward_pass.tags[:, None], forward_pass.places[:, None], context)
    mine = [
        {segment: share[segment] for segment in new.held} for share, new in zip(shares, forward_pass.rows, strict=True)
    ]
    left = plan_eviction(entries, forward_pass.rows, mine, method)
    entries = left.of(entries)
    arguments["inputs_embeds"] = entries.keys[:, 0]
    adapter.put_aligned(arguments, entries.values[:, 0], is_visual(entries.kind[:, 0]))
    return forward_pass.with_metadata(entries.tags[:, 0], entries.places[:, 0], rows=left.rows, compress=False)
