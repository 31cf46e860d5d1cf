"""Metadata that a forward pass adds to the cache, and per-row state on the host, which avoids reads from the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..compressor.entries import Grid, Kind, Tags


@dataclass(frozen=True)
class RowState:
    """State of one row of a layer on the host, which avoids reads from the device.

    Attributes:
        padding: padding entries held.
        held, seen: visual entries held per head (on average if heads differ), and visual tokens seen, per segment
            ordinal.
        labels: tokens held of each frame's label, by segment ordinal and frame, both ascending.
        labels_seen: label tokens seen, per segment ordinal.
        grids: grid of each segment, with the frames seen so far.
        starts: number of entries before each segment, without padding; missing for a segment with text between its
            entries.
        loose: whether there is padding other than in front.
        shift: by how many positions later tokens move down (`compact` only).
        following: position of the next text token if the row counts its own positions, as a stream does; None if
            `generate()` counts them. In the rows of a `ForwardPass`, its increment.
    """

    padding: int = 0
    held: Mapping[int, int] = field(default_factory=dict)
    seen: Mapping[int, int] = field(default_factory=dict)
    grids: Mapping[int, Grid] = field(default_factory=dict)
    starts: Mapping[int, int] = field(default_factory=dict)
    labels: Mapping[int, Mapping[int, int]] = field(default_factory=dict)
    labels_seen: Mapping[int, int] = field(default_factory=dict)
    loose: bool = False
    shift: int = 0
    following: int | None = None

    @property
    def visual(self) -> int:
        """Visual entries held, over all segments."""
        return sum(self.held.values())

    @property
    def label_tokens(self) -> int:
        """Label tokens held, over all segments."""
        return sum(sum(frames.values()) for frames in self.labels.values())

    def text(self, length: int) -> int:
        """Return how many of `length` slots hold text other than labels."""
        return length - self.padding - self.visual - self.label_tokens

    def tokens_seen(self, segment: int) -> int:
        """Return the number of tokens seen of a segment, labels included."""
        return self.seen[segment] + self.labels_seen.get(segment, 0)

    def after(self, new: RowState, length: int) -> RowState:
        """Return the state of this row, of `length` slots, after the tokens of `new`."""
        if new == _NOTHING:
            return self
        entries = length - self.padding
        return RowState(
            self.padding + new.padding,
            _added(self.held, new.held),
            _added(self.seen, new.seen),
            {**self.grids, **new.grids},
            self._starts_after(new, entries),
            self._labels_after(new),
            _added(self.labels_seen, new.labels_seen),
            self.loose or new.loose or (new.padding > 0 and entries > 0),
            self.shift + new.shift,
            None if self.following is None else self.following + (new.following or 0),
        )

    def _labels_after(self, new: RowState) -> Mapping[int, Mapping[int, int]]:
        joined = dict(self.labels)
        for segment, frames in new.labels.items():
            joined[segment] = _added(joined.get(segment, {}), frames)
        return joined

    def _starts_after(self, new: RowState, entries: int) -> Mapping[int, int]:
        starts = dict(self.starts)
        for segment in new.held:
            held, known = self.held.get(segment, 0), starts.pop(segment, None)
            arrives = entries + new.starts[segment] if segment in new.starts else None
            start = known if held else arrives
            if start is not None and arrives is not None and start + held == arrives:
                starts[segment] = start
        return starts


_NOTHING = RowState()


def _added(counts: Mapping[int, int], more: Mapping[int, int]) -> Mapping[int, int]:
    return {**counts, **{segment: counts.get(segment, 0) + count for segment, count in more.items()}}


@dataclass(frozen=True)
class TokenMetadata:
    """Metadata of the tokens of a pass.

    Attributes:
        tags: (batch, n, Tags.WIDTH) int32.
        places: (batch, n, width) fp32.
    """

    tags: Tensor
    places: Tensor


class DecodedMetadata:
    """Metadata of decoded tokens, the same number in every row, created when it is read: decoding does not read it."""

    def __init__(self, index: int, positions: Tensor) -> None:
        """Describe the tokens without creating their metadata.

        Args:
            index: original token index of the first; the others follow it.
            positions: (axes, batch, n) or (batch, n), as passed to the text model.
        """
        self._index, self._positions = index, positions

    @cached_property
    def tags(self) -> Tensor:
        """(batch, n, Tags.WIDTH) int32."""
        batch, length = self._positions.shape[-2:]
        index = self._index + torch.arange(length, device=self._positions.device)
        return text_tags(index.expand(batch, -1))

    @cached_property
    def places(self) -> Tensor:
        """(batch, n, Places.WIDTH) fp32."""
        axes = (self._positions[-3:] if self._positions.ndim == 3 else self._positions[None]).expand(3, -1, -1)
        importance = torch.full_like(axes[:1], torch.nan, dtype=torch.float32)
        return torch.cat([axes.float(), importance]).permute(1, 2, 0)

    def follows(self, other: DecodedMetadata) -> bool:
        """Whether these tokens directly follow others, with positions of the same form."""
        mine, before = self._positions.shape, other._positions.shape
        return self._index == other._index + before[-1] and mine[:-1] == before[:-1]

    @classmethod
    def joined(cls, steps: Sequence[DecodedMetadata]) -> DecodedMetadata:
        """Describe the tokens of several consecutive steps."""
        return steps[0] if len(steps) == 1 else cls(steps[0]._index, torch.cat([step._positions for step in steps], -1))


Metadata = TokenMetadata | DecodedMetadata


def joined_metadata(steps: Sequence[Metadata], device: torch.device) -> list[Tensor]:
    """Return tags and places of the tokens of several passes, (batch, 1, n, width) each, on a device."""
    decoded = [step for step in steps if isinstance(step, DecodedMetadata)]
    if len(decoded) == len(steps) and all(step.follows(before) for before, step in pairwise(decoded)):
        steps = [DecodedMetadata.joined(decoded)]
    parts = [step.tags for step in steps], [step.places for step in steps]
    return [(torch.cat(part, dim=1) if len(part) > 1 else part[0]).to(device)[:, None] for part in parts]


@dataclass(frozen=True)
class ForwardPass:
    """The tokens of one forward pass, as added to every layer's cache.

    Attributes:
        metadata: tags and places of the tokens.
        length: tokens in each row, padding and probes included.
        logical: tokens that the pass adds to the sequence, including those dropped before prefill.
        rows: what the pass adds to each row.
        compress: whether the layers are compressed after it.
        stock_mask: whether the stock mask is right for it if the cache is complete.
        moves: whether the keys move to their target positions after compression.
        probes: number of probe tokens at its end, whose attention methods read; no layer keeps them.
    """

    metadata: Metadata
    length: int
    logical: int
    rows: Sequence[RowState]
    compress: bool = False
    stock_mask: bool = True
    moves: bool = False
    probes: int = 0

    @classmethod
    def of(cls, tags: Tensor, places: Tensor, logical: int, rows: Sequence[RowState], **options: Any) -> ForwardPass:
        """Make a pass from the tags (batch, n, Tags.WIDTH) and places (batch, n, width) of its tokens."""
        return cls(TokenMetadata(tags, places), tags.shape[1], logical, rows, **options)

    @property
    def tags(self) -> Tensor:
        """Tags of the tokens, (batch, n, Tags.WIDTH) int32."""
        return self.metadata.tags

    @property
    def places(self) -> Tensor:
        """Places of the tokens, (batch, n, width) fp32."""
        return self.metadata.places

    def with_metadata(self, tags: Tensor, places: Tensor, **changes: Any) -> ForwardPass:
        """Return the pass with other tags and places, and further changes."""
        return replace(self, metadata=TokenMetadata(tags, places), length=tags.shape[1], **changes)

    @cached_property
    def _changes_rows(self) -> bool:
        return any(row != _NOTHING for row in self.rows)

    def rows_after(self, rows: list[RowState], length: int) -> list[RowState]:
        """Return the states of rows of `length` slots after this pass.

        Layers with equal rows share one list, which the next pass recognises by identity.
        """
        if not self._changes_rows:
            return rows
        known = self._rows_after.get(length)
        if known is None or (known[0] is not rows and known[0] != rows):
            after = [row.after(new, length) for row, new in zip(rows, self.rows, strict=True)]
            known = self._rows_after[length] = rows, after
        return known[1]

    @cached_property
    def _rows_after(self) -> dict[int, tuple[list[RowState], list[RowState]]]:
        return {}


def text_tags(index: Tensor) -> Tensor:
    """Return tags of text tokens at `index` (batch, n), (batch, n, Tags.WIDTH) int32."""
    tags = index.new_full((*index.shape, Tags.WIDTH), -1, dtype=torch.int32)
    tags[..., Tags.INDEX] = index
    tags[..., Tags.KIND] = Kind.TEXT
    return tags
