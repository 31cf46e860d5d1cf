"""What a forward pass brings to the cache, and what the host knows of each row, so that nothing is read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..compressor.entries import Grid, Kind, Tags

_EMPTY: Mapping[int, Any] = MappingProxyType({})


@dataclass(frozen=True)
class RowState:
    """What the host knows of one row of a layer, so that nothing has to be read back from the device.

    Attributes:
        padding: padding entries held.
        held, seen: visual entries held, and visual tokens seen, per segment ordinal.
        grids: grid of each segment, with the frames seen so far.
        starts: how many entries, padding not counted, come before each segment; a segment has none where text is
            between its entries.
        loose: whether padding is anywhere but in front.
        shift: how far positions of later tokens move down, in positions (`compact` only).
        following: the position of the next text token where the row counts its own positions, as a stream does; None
            where `generate()` counts them. In the rows of a `ForwardPass`, how far it moves on.
    """

    padding: int = 0
    held: Mapping[int, int] = field(default_factory=lambda: _EMPTY)
    seen: Mapping[int, int] = field(default_factory=lambda: _EMPTY)
    grids: Mapping[int, Grid] = field(default_factory=lambda: _EMPTY)
    starts: Mapping[int, int] = field(default_factory=lambda: _EMPTY)
    loose: bool = False
    shift: int = 0
    following: int | None = None

    def after(self, new: RowState, length: int) -> RowState:
        """This row, of `length` slots, once the tokens of `new` follow it."""
        if new == RowState():
            return self
        entries = length - self.padding
        return RowState(
            self.padding + new.padding,
            _added(self.held, new.held),
            _added(self.seen, new.seen),
            {**self.grids, **new.grids},
            self._starts_after(new, entries),
            self.loose or new.loose or (new.padding > 0 and entries > 0),
            self.shift + new.shift,
            None if self.following is None else self.following + (new.following or 0),
        )

    def _starts_after(self, new: RowState, entries: int) -> Mapping[int, int]:
        starts = dict(self.starts)
        for segment in new.held:
            held, known = self.held.get(segment, 0), starts.pop(segment, None)
            arrives = entries + new.starts[segment] if segment in new.starts else None
            start = known if held else arrives
            if start is not None and arrives is not None and start + held == arrives:
                starts[segment] = start
        return starts


def _added(counts: Mapping[int, int], more: Mapping[int, int]) -> Mapping[int, int]:
    return {**counts, **{segment: counts.get(segment, 0) + count for segment, count in more.items()}}


@dataclass(frozen=True)
class ForwardPass:
    """The tokens of one forward pass, as every layer's cache is about to see them.

    Attributes:
        tags: (batch, n, Tags.WIDTH) int32.
        places: (batch, n, width) fp32.
        logical: tokens that the pass adds to the sequence, those dropped before prefill included.
        rows: what the pass adds to each row.
        compress: whether the layers still have to be compressed after it.
        stock_mask: whether the stock mask fits it where the cache is complete.
        moves: whether the keys still have to move to their target positions once the layers are compressed.
        probes: tokens at its end that only ask, for methods that look at their attention; no layer keeps them.
    """

    tags: Tensor
    places: Tensor
    logical: int
    rows: Sequence[RowState]
    compress: bool = False
    stock_mask: bool = True
    moves: bool = False
    probes: int = 0


def text_tags(index: Tensor) -> Tensor:
    """Tags of text tokens at `index` (batch, n), (batch, n, Tags.WIDTH) int32."""
    tags = index.new_full((*index.shape, Tags.WIDTH), -1, dtype=torch.int32)
    tags[..., Tags.INDEX] = index
    tags[..., Tags.KIND] = Kind.TEXT
    return tags
