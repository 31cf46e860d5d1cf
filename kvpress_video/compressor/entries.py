"""Cached key/value pairs and what is known of each: where it came from, and where its key is rotated to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import CacheError
from .rope import Rope
from .tensor_parallel import UNSHARDED, HeadSharding


class Kind(IntEnum):
    """What a token is."""

    PADDING = -1
    TEXT = 0
    IMAGE = 1
    VIDEO = 2


class Grid(NamedTuple):
    """The visual tokens of one segment: frames (temporal steps), and rows × columns of merged patches in each."""

    frames: int
    rows: int
    columns: int

    @property
    def patches(self) -> int:
        """Visual tokens of one frame."""
        return self.rows * self.columns

    @property
    def tokens(self) -> int:
        """Visual tokens of the whole segment."""
        return self.frames * self.patches


class Tags:
    """Columns of `Entries.tags` (int32)."""

    INDEX, KIND, SEGMENT, FRAME, ROW, COLUMN = range(6)
    WIDTH = 6


class Places:
    """Columns of `Entries.places` (fp32): original (t, h, w) and importance; under `compact` positions also the
    (t, h, w) that the cached key is rotated to, and the one it belongs at.
    """

    ORIGINAL = slice(0, 3)
    IMPORTANCE = 3
    PRESENT, TARGET = slice(4, 7), slice(7, 10)
    WIDTH, COMPACT_WIDTH = 4, 10


def take_slots(states: Tensor, chosen: Tensor) -> Tensor:
    """What is at `chosen` (batch, heads, k) int64 of (batch, heads, n, width), row by row of memory."""
    batch, heads, length, width = states.shape
    across, down, along, within = states.stride()
    if not width or (along, within) != (width, 1) or across % width or down % width:
        return states.gather(2, chosen[..., None].expand(*chosen.shape, width))
    first = torch.arange(batch, device=chosen.device)[:, None] * (across // width)
    first = first + torch.arange(heads, device=chosen.device) * (down // width)
    held = ((batch - 1) * across + (heads - 1) * down) // width + length
    flat = states.as_strided((held, width), (width, 1))
    return flat.index_select(0, (chosen + first[..., None]).flatten()).view(*chosen.shape, width)


def at_target(places: Tensor) -> Tensor:
    """Compact places whose present (t, h, w) is their target, (…, Places.COMPACT_WIDTH)."""
    target = places[..., Places.TARGET]
    return torch.cat([places[..., : Places.WIDTH], target, target], dim=-1)


@dataclass(frozen=True)
class Queries:
    """The last queries of a prefill, for methods that look at attention.

    Attributes:
        states: rotated and scaled queries, (batch, attention_heads, window, head_dim).
        normaliser: log of the sum of exp(q·k) over every key that the query may see, (batch, attention_heads, window).
        index: original index of the last token that each query sees, (batch, window), -1 for padding: its own, or the
            last of its image where the tokens of an image see each other both ways.
    """

    states: Tensor
    normaliser: Tensor
    index: Tensor

    def rows(self, rows: Sequence[int]) -> Queries:
        """The queries of some rows of the batch."""
        parts = (self.states, self.normaliser, self.index)
        return Queries(*(torch.stack([part[row] for row in rows]) for part in parts))


@dataclass(frozen=True)
class Context:
    """What a method may know beyond the entries themselves.

    Attributes:
        grid: the whole segment as seen so far; None where the entries belong to several segments.
        layer, layers: which text layer this is, of how many.
        rope: the key rotation, None for entries that are not rotated (embeddings before prefill).
        queries: the last queries of the prefill, for methods whose `needs` hold `"queries"`.
        spread: how the KV heads are spread over processes, for methods that compare heads or number them.
    """

    grid: Grid | None = None
    layer: int = 0
    layers: int = 1
    rope: Rope | None = None
    queries: Queries | None = None
    spread: HeadSharding = UNSHARDED


@dataclass(frozen=True)
class Entries:
    """Some cached entries of one layer, in sequence order, the same number in every row and head.

    Attributes:
        keys: (batch, kv_heads, n, head_dim); rotated, as cached.
        values: (batch, kv_heads, n, head_dim).
        tags: (batch, kv_heads, n, Tags.WIDTH) int32.
        places: (batch, kv_heads, n, Places.WIDTH or Places.COMPACT_WIDTH) fp32.
        context: what else a method may know.
    """

    keys: Tensor
    values: Tensor
    tags: Tensor
    places: Tensor
    context: Context = Context()

    def __len__(self) -> int:
        return self.keys.shape[2]

    @property
    def index(self) -> Tensor:
        """Original token index in the row's sequence, -1 for padding, (batch, kv_heads, n)."""
        return self.tags[..., Tags.INDEX]

    @property
    def kind(self) -> Tensor:
        """`Kind` of each entry, (batch, kv_heads, n)."""
        return self.tags[..., Tags.KIND]

    @property
    def segment(self) -> Tensor:
        """Ordinal of the video or image in its row, -1 for text, (batch, kv_heads, n)."""
        return self.tags[..., Tags.SEGMENT]

    @property
    def frame(self) -> Tensor:
        """Frame within the segment, (batch, kv_heads, n)."""
        return self.tags[..., Tags.FRAME]

    @property
    def patch(self) -> Tensor:
        """Patch within the frame, row-major, (batch, kv_heads, n)."""
        return self.tags[..., Tags.ROW] * self.grid.columns + self.tags[..., Tags.COLUMN]

    @property
    def importance(self) -> Tensor:
        """Vision-attention importance of each entry, NaN where it was not captured, (batch, kv_heads, n)."""
        return self.places[..., Places.IMPORTANCE]

    @property
    def position(self) -> Tensor:
        """Original (t, h, w), (batch, kv_heads, n, 3)."""
        return self.places[..., Places.ORIGINAL]

    @property
    def present(self) -> Tensor:
        """The (t, h, w) that the cached key is rotated to, (batch, kv_heads, n, 3)."""
        compact = self.places.shape[-1] == Places.COMPACT_WIDTH
        return self.places[..., Places.PRESENT if compact else Places.ORIGINAL]

    @property
    def grid(self) -> Grid:
        """The segment's grid.

        Raises:
            CacheError: these entries belong to more than one segment.
        """
        if self.context.grid is None:
            raise CacheError("these entries have no grid: they belong to more than one segment")
        return self.context.grid

    @property
    def complete(self) -> bool:
        """Whether every visual token of the segment is still here."""
        return len(self) == self.grid.tokens

    def gather(self, chosen: Tensor) -> Entries:
        """The entries at `chosen`, (batch, kv_heads, k) int64."""
        parts = (self.keys, self.values, self.tags, self.places)
        keys, values, tags, places = (take_slots(part, chosen) for part in parts)
        return replace(self, keys=keys, values=values, tags=tags, places=places)

    def rows(self, rows: Sequence[int]) -> Entries:
        """Some rows of the batch; the same object when they are all of them."""
        if list(rows) == list(range(self.keys.shape[0])):
            return self
        queries = self.context.queries and self.context.queries.rows(rows)
        parts = (self.keys, self.values, self.tags, self.places)
        keys, values, tags, places = (torch.stack([part[row] for row in rows]) for part in parts)
        return Entries(keys, values, tags, places, replace(self.context, queries=queries))

    def slice(self, start: int, stop: int) -> Entries:
        """Entries start … stop-1 of every row and head."""
        part = (slice(None), slice(None), slice(start, stop))
        return replace(
            self, keys=self.keys[part], values=self.values[part], tags=self.tags[part], places=self.places[part]
        )

    def padded_to(self, length: int) -> Entries:
        """The same entries with padding in front, up to `length`."""
        missing = length - len(self)
        if not missing:
            return self
        pad = (0, 0, missing, 0)
        return replace(
            self,
            keys=torch.nn.functional.pad(self.keys, pad),
            values=torch.nn.functional.pad(self.values, pad),
            tags=torch.nn.functional.pad(self.tags, pad, value=Kind.PADDING),
            places=torch.nn.functional.pad(self.places, pad),
        )

    def in_order(self) -> Entries:
        """The same entries sorted by original token index."""
        return self.gather(self.index.argsort(dim=-1, stable=True))

    @staticmethod
    def join(parts: Sequence[Entries], dim: int) -> Entries:
        """Concatenate along the batch (`dim=0`) or the sequence (`dim=2`); the first part's context stays."""
        if len(parts) == 1:
            return parts[0]
        return Entries(
            torch.cat([part.keys for part in parts], dim),
            torch.cat([part.values for part in parts], dim),
            torch.cat([part.tags for part in parts], dim),
            torch.cat([part.places for part in parts], dim),
            parts[0].context,
        )


def grid_tags(grid: Grid, kind: Kind, segment: int = 0, first_frame: int = 0, ordinals: Tensor | None = None) -> Tensor:
    """Tag the visual tokens of a grid, whose index is their ordinal: add the index of the first to shift them.

    Args:
        grid: frames of rows × columns tokens.
        kind: image or video.
        segment: ordinal of the segment in its row.
        first_frame: frames of the segment before the grid.
        ordinals: the tokens to tag, by their place in the grid in row-major order, (n,) integers on any device; all of
            them, on the host, by default.

    Returns:
        (n, Tags.WIDTH) int32, on the device of `ordinals`.
    """
    ordinal = torch.arange(grid.tokens) if ordinals is None else ordinals
    tags = ordinal.new_empty((len(ordinal), Tags.WIDTH), dtype=torch.int32)
    tags[:, Tags.INDEX] = ordinal
    tags[:, Tags.KIND] = kind
    tags[:, Tags.SEGMENT] = segment
    tags[:, Tags.FRAME] = first_frame + ordinal // grid.patches
    tags[:, Tags.ROW] = ordinal % grid.patches // grid.columns
    tags[:, Tags.COLUMN] = ordinal % grid.columns
    return tags


def segment_entries(
    keys: Tensor, values: Tensor, grid: Grid, context: Context, importance: Tensor | None = None
) -> Entries:
    """Entries of one complete segment from bare tensors, first visual entry at index 0.

    Args:
        keys, values: (batch, kv_heads, n, head_dim) with n a multiple of the grid's patches.
        grid: its tokens must be n.
        context: its grid is replaced by `grid`.
        importance: vision-attention importance, (n,).
    """
    batch, heads, length, _ = keys.shape
    tags = grid_tags(grid, Kind.VIDEO, ordinals=torch.arange(length, device=keys.device))
    position = tags[:, Tags.FRAME :].float()
    if importance is None:
        importance = torch.full_like(position[:, 0], torch.nan)
    places = torch.cat([position, importance.to(position)[:, None]], dim=-1)
    return Entries(
        keys,
        values,
        tags.expand(batch, heads, -1, -1),
        places.expand(batch, heads, -1, -1),
        replace(context, grid=grid),
    )
