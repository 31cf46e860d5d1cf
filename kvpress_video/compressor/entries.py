"""Cached key/value pairs with their metadata: the token each one comes from and the position of its key.

This file holds all inputs of a method; most of it is documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..errors import CacheError, MissingInputError
from .attention_call import AttentionCall
from .rope import Rope
from .tensor_parallel import UNSHARDED, HeadSharding


class Kind(IntEnum):
    """Kind of a token; a label is text that belongs to one frame, such as its time."""

    PADDING = -1
    TEXT = 0
    IMAGE = 1
    VIDEO = 2
    LABEL = 3


class Grid(NamedTuple):
    """Visual tokens of one segment: frames (temporal steps) of rows × columns merged patches."""

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

    @property
    def known(self) -> bool:
        """Whether frames, rows and columns are those of the video or image."""
        return True


class UnknownGrid(Grid):
    """Grid of a segment with unknown layout: all tokens in one row of one frame."""

    @property
    def known(self) -> bool:
        """Return False, so that `Entries.grid` raises an error."""
        return False


class Tags:
    """Columns of `Entries.tags`, (..., WIDTH) int32."""

    INDEX, KIND, SEGMENT, FRAME, ROW, COLUMN = range(6)
    WIDTH = 6


class Places:
    """Columns of `Entries.places`, (..., WIDTH or COMPACT_WIDTH) fp32.

    The original (t, h, w) position and the importance; under `positions="compact"` also the present position, to which
    the cached key is rotated, and the target position, to which it will move.
    """

    ORIGINAL = slice(0, 3)
    IMPORTANCE = 3
    PRESENT, TARGET = slice(4, 7), slice(7, 10)
    WIDTH, COMPACT_WIDTH = 4, 10


def is_visual(kind: Any) -> Any:
    """Return whether each kind, in an integer array or tensor, is that of an image or video token."""
    return (kind == Kind.IMAGE) | (kind == Kind.VIDEO)


def take_slots(states: Tensor, chosen: Tensor) -> Tensor:
    """Copy the slots `chosen`, (batch, heads, k) int64, of states (batch, heads, n, width), if possible row by row."""
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
    """Return places, (..., Places.COMPACT_WIDTH), whose present position is their target."""
    target = places[..., Places.TARGET]
    return torch.cat([places[..., : Places.WIDTH], target, target], dim=-1)


QUERYING = frozenset({"queries", "probe", "reconstruction"})
"""Needs of a method that fill `Context.queries`."""


@dataclass(frozen=True)
class Queries:
    """Captured queries, for methods that rank entries by attention.

    Attributes:
        states: rotated and scaled queries, (batch, attention_heads, window, head_dim); those of one KV head are
            adjacent.
        normaliser: log of the sum of exp(q·k) over all keys visible to the query, (batch, attention_heads, window).
        index: original index of the last token visible to each query, (batch, window), -1 for padding: the query's own
            token, or the last of its image if attention within images is bidirectional.
        positions: (t, h, w) to which the states are rotated, (batch, window, 3) fp32; None if unknown.
    """

    states: Tensor
    normaliser: Tensor
    index: Tensor
    positions: Tensor | None = None

    def rows(self, rows: Sequence[int]) -> Queries:
        """Return the queries of some rows of the batch."""
        parts = (self.states, self.normaliser, self.index, self.positions)
        picked = [part if part is None else torch.stack([part[row] for row in rows]) for part in parts]
        return Queries(*picked)  # type: ignore[arg-type]

    def head(self, row: int, head: int, heads: int) -> Queries:
        """Return views of the queries of one row and one of `heads` KV heads."""
        mine, shared = slice(row, row + 1), self.states.shape[1] // heads
        asking = slice(head * shared, (head + 1) * shared)
        positions = self.positions if self.positions is None else self.positions[mine]
        return Queries(self.states[mine, asking], self.normaliser[mine, asking], self.index[mine], positions)


@dataclass(frozen=True)
class LayerScores:
    """Scores of the next deeper layer in the same pass, for methods that need `"deeper"`.

    Attributes:
        index: original token index of each of its entries, (batch, kv_heads, n) int32.
        scores: the method's `scores()` for them, (batch, kv_heads, n); NaN for entries not scored.
    """

    index: Tensor
    scores: Tensor

    def of(self, index: Tensor, default: Tensor) -> Tensor:
        """Look up the scores of tokens.

        Args:
            index: their original token indices, (batch, kv_heads, m) int32.
            default: scores of tokens that the deeper layer has evicted or did not score, (batch, kv_heads, m).

        Returns:
            (batch, kv_heads, m), on the device of `default`.
        """
        known, order = self.index.to(default.device).sort(dim=-1)
        place = torch.searchsorted(known, index.contiguous()).clamp_max(known.shape[-1] - 1)
        scores = self.scores.to(default).gather(-1, order.gather(-1, place))
        return torch.where((known.gather(-1, place) == index) & ~scores.isnan(), scores, default)

    def rows(self, rows: Sequence[int]) -> LayerScores:
        """Return the scores of some rows of the batch."""
        return LayerScores(*(torch.stack([part[row] for row in rows]) for part in (self.index, self.scores)))


@dataclass(frozen=True)
class Context:
    """Inputs of a method in addition to the entries.

    Attributes:
        grid: the segment seen so far, evicted entries included; None if the entries belong to several segments.
        layer: index of the compressed text layer, from 0.
        layers: number of compressed text layers.
        rope: rotation of the keys, None for entries without one (embeddings before prefill).
        queries: captured queries, for methods that need `"queries"` or `"probe"`.
        deeper: scores of the next deeper layer, for methods that need `"deeper"`; None in the deepest one.
        spread: sharding of the KV heads over processes, for methods that compare or number heads.
        output_weight: part of the layer's output projection that each query head's values are multiplied by,
            (kv_heads, query heads per KV head, head_dim, hidden) in the model's dtype, for methods that need it.
        attention: call of the layer's attention, for methods that need it.
        router: maps embeddings (..., hidden) to the probabilities of the experts (..., experts) fp32, for methods that
            need `"router"`.
        calibration: calibrations stored in the model's configuration, by name.
    """

    grid: Grid | None = None
    layer: int = 0
    layers: int = 1
    rope: Rope | None = None
    queries: Queries | None = None
    deeper: LayerScores | None = None
    spread: HeadSharding = UNSHARDED
    output_weight: Tensor | None = None
    attention: AttentionCall | None = None
    router: Callable[[Tensor], Tensor] | None = None
    calibration: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entries:
    """Cached entries of one layer, in sequence order, the same number in every row and head; where heads hold different
    numbers, padding comes first.

    Attributes:
        keys: (batch, kv_heads, n, head_dim), rotated as cached, in the model's dtype.
        values: (batch, kv_heads, n, head_dim), in the model's dtype.
        tags: (batch, kv_heads, n, Tags.WIDTH) int32.
        places: (batch, kv_heads, n, Places.WIDTH or Places.COMPACT_WIDTH) fp32.
        context: grid, layer, rotation, and captured queries.
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
        """Original token index in the row's sequence, (batch, kv_heads, n) int32, -1 for padding."""
        return self.tags[..., Tags.INDEX]

    @property
    def kind(self) -> Tensor:
        """`Kind` of each entry, (batch, kv_heads, n) int32."""
        return self.tags[..., Tags.KIND]

    @property
    def segment(self) -> Tensor:
        """Ordinal of the video or image in its row, (batch, kv_heads, n) int32, -1 for text."""
        return self.tags[..., Tags.SEGMENT]

    @property
    def frame(self) -> Tensor:
        """Frame within the segment, (batch, kv_heads, n) int32."""
        return self.tags[..., Tags.FRAME]

    @property
    def patch(self) -> Tensor:
        """Patch within the frame in row-major order, (batch, kv_heads, n) int32; needs a grid."""
        return self.tags[..., Tags.ROW] * self.grid.columns + self.tags[..., Tags.COLUMN]

    @property
    def importance(self) -> Tensor:
        """Vision-attention importance, (batch, kv_heads, n) fp32, NaN where it was not captured."""
        return self.places[..., Places.IMPORTANCE]

    @property
    def position(self) -> Tensor:
        """Original (t, h, w) position, (batch, kv_heads, n, 3) fp32."""
        return self.places[..., Places.ORIGINAL]

    @property
    def present(self) -> Tensor:
        """Position (t, h, w) to which the cached key is rotated, (batch, kv_heads, n, 3) fp32."""
        compact = self.places.shape[-1] == Places.COMPACT_WIDTH
        return self.places[..., Places.PRESENT if compact else Places.ORIGINAL]

    @property
    def grid(self) -> Grid:
        """Grid of the segment.

        Raises:
            CacheError: the entries belong to more than one segment.
            MissingInputError: the layout of the segment's tokens is unknown.
        """
        if self.context.grid is None:
            raise CacheError("These entries have no grid: they belong to more than one segment.")
        if not self.context.grid.known:
            raise MissingInputError(
                f"The method needs a grid of frames, rows and columns, which is unknown for this image or video of "
                f"{self.context.grid.tokens} tokens (the model has no dedicated adapter): choose a method without one, "
                "such as 'key-norm'."
            )
        return self.context.grid

    @property
    def complete(self) -> bool:
        """Whether no visual token of the segment is missing."""
        return len(self) == self.grid.tokens

    def gather(self, chosen: Tensor) -> Entries:
        """Return copies of the entries at the slots `chosen`, (batch, kv_heads, k) int64."""
        return self._mapped(lambda part: take_slots(part, chosen))

    def rows(self, rows: Sequence[int]) -> Entries:
        """Return copies of some rows of the batch, or this object if `rows` covers all of them."""
        if list(rows) == list(range(self.keys.shape[0])):
            return self
        queries = self.context.queries and self.context.queries.rows(rows)
        attention = self.context.attention and self.context.attention.rows(rows)
        deeper = self.context.deeper and self.context.deeper.rows(rows)
        picked = self._mapped(lambda part: torch.stack([part[row] for row in rows]))
        return replace(picked, context=replace(self.context, queries=queries, attention=attention, deeper=deeper))

    def head(self, row: int, head: int) -> Entries:
        """Return views of one row and head, as the entries of a single-head layer."""
        heads, context = self.keys.shape[1], self.context
        queries = context.queries and context.queries.head(row, head, heads)
        weight = context.output_weight if context.output_weight is None else context.output_weight[head : head + 1]
        alone = HeadSharding(context.spread.rank * heads + head, context.spread.processes * heads)
        context = replace(context, queries=queries, output_weight=weight, spread=alone, attention=None, deeper=None)
        picked = self._mapped(lambda part: part[row : row + 1, head : head + 1])
        return replace(picked, context=context)

    def by_head(self) -> list[list[Entries]]:
        """Split entries into those of each head, `[row][head]`, without padding; reads counts from the device."""
        held, n = (self.index >= 0).sum(dim=-1).tolist(), len(self)
        return [
            [self.head(row, head).slice(n - count, n) for head, count in enumerate(counts)]
            for row, counts in enumerate(held)
        ]

    def where(self, stays: Tensor) -> Entries:
        """Return copies of the kept entries, with leading padding in heads that keep fewer.

        Args:
            stays: (batch, kv_heads, n) bool.
        """
        most = int(stays.sum(dim=-1).max())
        slots = stays.byte().argsort(dim=-1, stable=True)[..., len(self) - most :]
        return self.padded(slots, stays.gather(-1, slots))

    def padded(self, slots: Tensor, real: Tensor) -> Entries:
        """Return copies of the entries at `slots` (batch, kv_heads, k) int64; those not `real` become padding."""
        left, padding = self.gather(slots), ~real[..., None]
        tags = left.tags.masked_fill(padding, Kind.PADDING)
        keys, values, places = (part.masked_fill(padding, 0) for part in (left.keys, left.values, left.places))
        return Entries(keys, values, tags, places, self.context)

    def slice(self, start: int, stop: int) -> Entries:
        """Return views of the entries `start` to `stop - 1` of every row and head."""
        return self._mapped(lambda part: part[:, :, start:stop])

    def padded_to(self, length: int) -> Entries:
        """Return the entries with leading padding to `length`."""
        missing = length - len(self)
        if not missing:
            return self
        front = (0, 0, missing, 0)
        keys, values, places = (pad(part, front) for part in (self.keys, self.values, self.places))
        return Entries(keys, values, pad(self.tags, front, value=Kind.PADDING), places, self.context)

    def in_order(self) -> Entries:
        """Return copies of the entries, sorted by original token index."""
        return self.gather(self.index.argsort(dim=-1, stable=True))

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Entries:
        parts = (self.keys, self.values, self.tags, self.places)
        keys, values, tags, places = (change(part) for part in parts)
        return Entries(keys, values, tags, places, self.context)

    @staticmethod
    def join(parts: Sequence[Entries], dim: int) -> Entries:
        """Concatenate along the batch (`dim=0`) or the sequence (`dim=2`), with the context of the first part."""
        if len(parts) == 1:
            return parts[0]
        every = ([part.keys, part.values, part.tags, part.places] for part in parts)
        keys, values, tags, places = (torch.cat(same, dim) for same in zip(*every, strict=True))
        return Entries(keys, values, tags, places, parts[0].context)


def grid_tags(grid: Grid, kind: Kind, segment: int = 0, first_frame: int = 0, ordinals: Tensor | None = None) -> Tensor:
    """Build the tags of a grid's visual tokens, with their ordinal in the grid as index.

    Args:
        grid: frames of rows × columns tokens.
        kind: image or video.
        segment: ordinal of the segment in its row.
        first_frame: frames of the segment before the grid.
        ordinals: tokens to tag, by their row-major place in the grid, (n,) integers on any device; all of them, on the
            CPU, by default.

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
    keys: Tensor,
    values: Tensor,
    grid: Grid,
    context: Context,
    importance: Tensor | None = None,
    positions: Tensor | None = None,
) -> Entries:
    """Make the entries of one complete video from plain tensors, starting at index and frame 0.

    Args:
        keys, values: (batch, kv_heads, grid.tokens, head_dim).
        grid: the video's visual tokens.
        context: further inputs; its grid is replaced by `grid`.
        importance: vision-attention importance, (grid.tokens,); not captured by default.
        positions: position (t, h, w) of each token, (grid.tokens, 3); frame, row and column by default.
    """
    batch, heads, length, _ = keys.shape
    tags = grid_tags(grid, Kind.VIDEO, ordinals=torch.arange(length, device=keys.device))
    position = tags[:, Tags.FRAME :].float() if positions is None else positions.to(keys.device, torch.float32)
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
