"""Reversible eviction of text from a stream's cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..cache.forward_pass import RowState
from ..cache.layer_mark import LayerMark
from ..compressor.entries import Context, Entries
from .position_gaps import Gap
from .stream import Mark, Stream
from .turn_eviction import Departure, TokenRange


class _Layer(NamedTuple):
    """A layer before the eviction: its state, and the evicted entries (on the host)."""

    mark: LayerMark
    leave: Entries


class TextEviction:
    """The eviction of turns from a stream: entries leave its compressed layers; other layers keep their state."""

    def __init__(self, stream: Stream, leaves: Departure, earlier: Departure | None) -> None:
        """Prepare an eviction.

        Args:
            stream: the stream, which holds every evicted token as text.
            leaves: the turns and tokens to evict.
            earlier: the same if the stream were at its remembered mark; None if the mark becomes invalid.
        """
        self._stream, self._leaves, self._earlier = stream, leaves, earlier
        self._before = stream.timeline, stream.evicted_text, stream.remembered
        self._layers: list[_Layer] = []

    def apply(self) -> None:
        """Evict the text. If this fails, each layer holds either all of it or none."""
        stream, count = self._stream, self._leaves.tokens
        if not count:
            return
        for layer in stream.layers:
            entries = layer.entries(Context())
            order = _among(entries.index, self._leaves.ranges).int().argsort(dim=-1, stable=True)
            leave = entries.gather(order[..., -count:])
            if not self._layers:
                left = _Left.of(leave, int(order[0, 0, -count]), layer.rows[0])
            self._layers.append(_Layer(layer.mark(), _to(leave, "cpu")))
            layer.replace(entries.gather(order[..., :-count]), [left.row(row, count) for row in layer.rows])
        stream.timeline = stream.timeline.without(left.gap, stream.compact)
        stream.evicted_text += count
        stream.remembered = self._remembered(left)

    def put_back(self) -> None:
        """Undo `apply`, even if it was interrupted."""
        stream = self._stream
        for layer, before in zip(stream.layers, self._layers, strict=False):
            if layer.physical < before.mark.physical:
                entries = layer.entries(Context())
                both = [entries, _to(before.leave, entries.keys.device)]
                layer.replace(before.mark.restored(Entries.join(both, dim=2).in_order()), before.mark.rows)
        stream.timeline, stream.evicted_text, stream.remembered = self._before

    def _remembered(self, left: _Left) -> Mark | None:
        """Return the remembered mark without the evicted text."""
        mark, earlier = self._stream.remembered, self._earlier
        if mark is None or earlier is None:
            return None
        count = earlier.tokens
        layers = tuple(
            layer._replace(physical=layer.physical - count, rows=tuple(left.row(row, count) for row in layer.rows))
            for layer in mark.layers
        )
        gap = Gap(left.gap.start, min(left.gap.end, mark.layers[0].rows[0].following or 0))
        timeline = mark.timeline.without(gap, self._stream.compact)
        return mark._replace(layers=layers, timeline=timeline, evicted_text=mark.evicted_text + count)


@dataclass(frozen=True)
class _Left:
    """Facts about the evicted text, read from the first layer.

    Attributes:
        gap: its positions.
        before_frames: whether it precedes the frames, if those are contiguous.
    """

    gap: Gap
    before_frames: bool

    @classmethod
    def of(cls, leave: Entries, slot: int, row: RowState) -> _Left:
        """Read the facts from the evicted entries, the first of which was at a slot of a row."""
        place = leave.present[0, 0, :, 0]
        gap = Gap(round(float(place.min())), round(float(place.max())) + 1)
        return cls(gap, any(slot < start for start in row.starts.values()))

    def row(self, row: RowState, count: int) -> RowState:
        """Return a row after `count` tokens are evicted."""
        if not self.before_frames:
            return row
        return replace(row, starts={segment: start - count for segment, start in row.starts.items()})


def _among(index: Tensor, ranges: Sequence[TokenRange]) -> Tensor:
    """Return for each token index whether it is in one of the ranges."""
    found = torch.zeros_like(index, dtype=torch.bool)
    for start, stop in ranges:
        found |= (index >= start) & (index < stop)
    return found


def _to(entries: Entries, device: object) -> Entries:
    parts = (entries.keys, entries.values, entries.tags, entries.places)
    return Entries(*(part.to(device) for part in parts))  # type: ignore[call-overload]
