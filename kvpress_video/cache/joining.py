"""Join rows of several caches in one, padded in front to the same length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..compressor.entries import Context, Entries, Places
from .layer import CompressedLayer


def join_layers(layers: Sequence[CompressedLayer], rows: Sequence[Sequence[int]], spare: int) -> CompressedLayer:
    """Return a layer with copies of some rows of several layers.

    Args:
        layers: layers with the same index in several caches, padded on the left.
        rows: indices of the rows of each, in order.
        spare: entries to reserve room for after them.
    """
    logical = max(layer.logical for layer in layers)
    states = [[layer.rows[row] for row in chosen] for layer, chosen in zip(layers, rows, strict=True)]
    fronts = [min(row.padding for row in chosen) for chosen in states]
    lengths = [layer.physical - front for layer, front in zip(layers, fronts, strict=True)]
    length = max(lengths)
    after = [
        replace(row, padding=row.padding - front + length - own)
        for chosen, front, own in zip(states, fronts, lengths, strict=True)
        for row in chosen
    ]
    joined = CompressedLayer(length + spare, after, logical)
    if length:
        like = next(layer for layer in layers if layer.physical).entries(Context()).slice(0, 0)
        parts = [
            layer.entries(Context()).slice(front, layer.physical).rows(chosen) if own else like
            for layer, chosen, front, own in zip(layers, rows, fronts, lengths, strict=True)
        ]
        joined.replace(Entries.join([part.padded_to(length) for part in parts], dim=0), after)
    return joined


def count_positions(layers: Sequence[CompressedLayer]) -> None:
    """Make the rows of a cache whose last token is text count their own positions from here on, so that they can be
    joined.
    """
    places = layers[0].places
    assert places is not None
    following = (places[:, 0, -1, Places.ORIGINAL].amax(dim=-1).long() + 1).tolist()
    for layer in layers:
        layer.rows = [replace(row, following=place) for row, place in zip(layer.rows, following, strict=True)]
