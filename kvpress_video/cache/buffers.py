"""Preallocated tensors for the entries of a cache layer, so that appending does not concatenate."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .forward_pass import Metadata, joined_metadata

_LEAST_GROWTH = 64
_TURNS = 16
_STATES = 2  # keys and values come first, then metadata
_MOST_LATE = 256


class Buffers:
    """Keys, values and metadata (batch, heads, capacity, width) of a layer's entries, filled from the front.

    Appending writes in place. Entries that no longer fit are moved to a buffer an eighth larger than needed.

    Attributes:
        length: entries held.
        floor: minimum capacity. If set before the first entry, nothing moves until it is exceeded.
    """

    def __init__(self, floor: int = 0) -> None:
        self.length = 0
        self.floor = floor
        self._whole: tuple[Tensor, ...] = ()
        self._late: list[Metadata] = []  # metadata of the newest entries, not yet written

    @property
    def capacity(self) -> int:
        """Capacity in entries."""
        return self._whole[0].shape[2] if self._whole else 0

    @property
    def bytes(self) -> int:
        """Bytes of the buffers."""
        return sum(part.numel() * part.element_size() for part in self._whole)

    @property
    def held_bytes(self) -> int:
        """Bytes of the entries held."""
        each = (part.numel() * part.element_size() // max(1, part.shape[2]) for part in self._whole)
        return sum(size * self.length for size in each)

    @property
    def held(self) -> tuple[Tensor, ...]:
        """Return all tensors: views, valid until the next change."""
        return self._filled()

    @property
    def states(self) -> tuple[Tensor, ...]:
        """Return keys and values: views, valid until the next change."""
        return tuple([part.narrow(2, 0, self.length) for part in self._whole[:_STATES]])

    @property
    def metadata(self) -> tuple[Tensor, ...]:
        """Return the metadata: views, valid until the next change."""
        return self._filled()[_STATES:]

    @property
    def metadata_widths(self) -> tuple[int, ...]:
        """Return the width of each part of the metadata; empty before the first entry."""
        return tuple(part.shape[-1] for part in self._whole[_STATES:])

    def append(self, parts: Sequence[Tensor]) -> None:
        """Add entries: (batch, heads or 1, n, width) each."""
        self._write_late()
        needed = self.length + parts[0].shape[2]
        if needed > self.capacity or not self._takes(parts):
            growth = max(_LEAST_GROWTH, needed // 8) if self._whole else 0
            held = [have.to(torch.promote_types(have.dtype, part.dtype))
                    for have, part in zip(self._filled(), parts, strict=False)]  # fmt: skip
            self._move(held or parts, max(needed + growth, self.floor))
        self._write(parts, needed)
        self.length = needed

    def append_step(self, states: Sequence[Tensor], metadata: Metadata) -> None:
        """Add a decoded token. Its metadata, which only compression needs, is written when it is read.

        Args:
            states: keys and values, (batch, heads, 1, width) each.
            metadata: its tags and places.
        """
        start, added = self.length, states[0].shape[2]
        if start + added > self.capacity or not self._takes(states):
            self.append([*states, *joined_metadata([metadata], states[0].device)])
            return
        for whole, part in zip(self._whole, states, strict=False):
            whole.narrow(2, start, added).copy_(part)
        self.length = start + added
        self._late.append(metadata)
        if len(self._late) == _MOST_LATE:
            self._write_late()

    def assign(self, parts: Sequence[Tensor]) -> None:
        """Replace the entries, in place if the new ones fit; they share no memory with the buffers."""
        self._late.clear()
        length = parts[0].shape[2]
        if not self._fits(length) or self._frozen or parts[0].shape[0] != self._whole[0].shape[0]:
            self._whole, self.length = (), 0
            if length < self.floor:
                self._move(parts, self.floor)
            else:
                self._whole = tuple(part.contiguous() for part in parts)
        for whole, part in zip(self._whole, parts, strict=True):
            if whole is not part:
                whole[:, :, :length] = part
        self.length = length

    def keep(self, slots: Tensor) -> None:
        """Keep only the entries at `slots` (batch, heads, n) int64, a few heads at a time, in place if they fit the
        buffers.
        """
        self._write_late()
        batch, heads, length = slots.shape
        stays, room = self._fits(length) and not self._frozen, self.bytes // _TURNS
        first = torch.arange(batch * heads, device=slots.device) * self.capacity
        lines = slots.flatten(0, 1) + first[:, None]
        capacity = self.capacity if stays else max(length, self.floor)
        kept = [part if stays else self._empty(part, (batch, heads, capacity, part.shape[3])) for part in self._whole]
        for whole, to in zip(self._whole, kept, strict=True):
            _take_heads(whole, lines, to.flatten(0, 1)[:, :length], room)
        self._whole, self.length = tuple(kept), length

    def drop_last(self, entries: int) -> None:
        """Drop the newest entries; their unwritten metadata is discarded."""
        del self._late[max(0, len(self._late) - entries) :]
        self.length -= entries

    def map_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        """Change the batch of every tensor."""
        self._write_late()
        self._whole = tuple(change(part) for part in self._whole)

    def clear(self) -> None:
        """Drop all entries and buffers."""
        self._whole, self.length = (), 0
        self._late.clear()

    def _write_late(self) -> None:
        if not self._late:
            return
        states, metadata = self._whole[:_STATES], self._whole[_STATES:]
        if self._frozen:
            metadata = tuple(part.clone() for part in metadata)
        for whole, part in zip(metadata, joined_metadata(self._late, states[0].device), strict=True):
            whole[:, :, self.length - part.shape[2] : self.length] = part
        self._whole = (*states, *metadata)
        self._late = []  # last, so that an interruption before it loses nothing

    def _filled(self) -> tuple[Tensor, ...]:
        self._write_late()
        return tuple(part[:, :, : self.length] for part in self._whole)

    def _fits(self, length: int) -> bool:
        """Whether the capacity suffices for this many entries without being far too large."""
        return bool(self._whole) and length <= self.capacity <= max(2 * length + _LEAST_GROWTH, self.floor)

    def _takes(self, parts: Sequence[Tensor]) -> bool:
        """Whether keys and values can be written in place.

        They cannot under autograd or after an inference mode has ended, and would lose precision in a cache begun under
        an autocast that has ended.
        """
        ended = not torch.is_inference_mode_enabled()
        for whole, part in zip(self._whole[:_STATES], parts, strict=False):
            if whole.requires_grad or (ended and whole.is_inference()):
                return False
            if whole.dtype != part.dtype and torch.promote_types(whole.dtype, part.dtype) != whole.dtype:
                return False
        return True

    @property
    def _frozen(self) -> bool:
        """Whether autograd, or an inference mode that has ended, forbids writing in place."""
        return not self._takes(self._whole)

    def _move(self, like: Sequence[Tensor], capacity: int) -> None:
        """Move to new buffers, shaped like `like`."""
        heads = max(part.shape[1] for part in like)
        moved = tuple(self._empty(part, (part.shape[0], heads, capacity, part.shape[3])) for part in like)
        for whole, part in zip(moved, self._filled(), strict=False):
            whole[:, :, : self.length] = part
        self._whole = moved  # last, so that an interruption before it loses nothing

    def _empty(self, like: Tensor, shape: Sequence[int]) -> Tensor:
        """Return a new buffer."""
        return like.new_empty(shape)

    def _write(self, parts: Sequence[Tensor], end: int) -> None:
        """Fill the buffers from the last entry up to `end`."""
        for whole, part in zip(self._whole, parts, strict=True):
            whole[:, :, self.length : end] = part


def _take_heads(whole: Tensor, lines: Tensor, to: Tensor, room: int) -> None:
    """Copy rows `lines` (heads, k) of the memory of a (batch, heads, n, width) tensor to (heads, k, width), which may
    overlap it. A few heads at a time, so that temporaries take about `room` bytes.
    """
    heads, length, width = to.shape
    step = min(heads, max(1, room // max(1, length * width * whole.element_size())))
    flat = whole.view(-1, width)
    between = None if whole.requires_grad else whole.new_empty((step * length, width))
    for some in lines.split(step):
        out = None if between is None else between[: some.numel()]
        taken = torch.index_select(flat, 0, some.flatten(), out=out)
        to[: len(some)] = taken.view(len(some), length, width)
        to = to[len(some) :]
