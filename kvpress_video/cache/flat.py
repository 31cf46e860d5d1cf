"""Entries of heads with different counts: stored without gaps, and padded when they are read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from ..compressor.entries import Entries, Kind, Tags
from ..compressor.ranking import top
from ..compressor.rope import Rope
from .buffers import Buffers
from .compaction import moved
from .staging import staging_room

_STATES = 2  # keys and values come first, then tags and places
_TAGS = 2


class PaddedRoom:
    """Memory for the padded entries of one layer at a time, shared by the layers of a cache.

    The padded entries of a layer are valid until the next layer is padded.
    """

    def __init__(self) -> None:
        self._rooms: dict[tuple[torch.device, int], Tensor] = {}

    @property
    def bytes(self) -> int:
        """Bytes of the memory, on all devices."""
        return sum(room.numel() * room.element_size() for room in self._rooms.values())

    def take(self, part: int, like: Tensor, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
        """Return a tensor of a shape (batch, heads, n, width) on the device of `like`.

        It holds finite numbers, so that masked attention may read them.
        """
        if like.requires_grad:
            return like.new_zeros(shape, dtype=dtype)
        where, needed = (like.device, part), math.prod(shape)
        if where not in self._rooms or self._rooms[where].dtype != dtype or len(self._rooms[where]) < needed:
            self._rooms.pop(where, None)
            capacity = math.prod((*shape[:2], staging_room(shape[2]), *shape[3:]))
            with torch.inference_mode(False):
                self._rooms[where] = torch.zeros(capacity, dtype=dtype, device=like.device)
        return self._rooms[where][:needed].view(*shape)


class FlatBuffers(Buffers):
    """Entries of a layer: those of earlier passes, row by row and head by head without gaps, then the newer ones, the
    same number in each head.

    Attributes:
        counts: entries of earlier passes, [row][head].
        average: their average per head, including the padding of shorter rows.
        paddings: the padding of each row.
    """

    def __init__(self, room: PaddedRoom) -> None:
        super().__init__()
        self._room = room
        self._forget()

    def _forget(self) -> None:
        self._flat: tuple[Tensor, ...] = ()
        self.counts: list[list[int]] = []
        self.average = 0
        self.paddings: list[int] = []
        self._fronts: Tensor | None = None

    @property
    def bytes(self) -> int:
        """Bytes of the buffers."""
        return super().bytes + self._flat_bytes

    @property
    def held_bytes(self) -> int:
        """Bytes of the entries held."""
        return super().held_bytes + self._flat_bytes

    @property
    def _flat_bytes(self) -> int:
        return sum(part.numel() * part.element_size() for part in self._flat)

    @property
    def staging_bytes(self) -> int:
        """Bytes of the padded memory that the layers of a cache share."""
        return self._room.bytes

    @property
    def longest(self) -> int:
        """Entries of earlier passes in the fullest head."""
        return max((count for _, _, count in self._heads), default=0)

    @property
    def span(self) -> int:
        """Padded length of a head."""
        return self.longest + self.length

    @property
    def uneven(self) -> bool:
        """Whether any head is padded."""
        return len({count for _, _, count in self._heads}) > 1

    @property
    def samples(self) -> tuple[Tensor, ...]:
        """Tensors with the dtype, device and width of keys and of values."""
        return tuple((self._flat or self._whole)[:_STATES])

    @property
    def states(self) -> tuple[Tensor, ...]:
        """Return padded keys and values, valid until the next change or until another layer is padded."""
        return self._laid_out(range(_STATES), super().states) if self._flat else super().states

    @property
    def held(self) -> tuple[Tensor, ...]:
        """Return all tensors, padded, with the same validity."""
        if not self._flat:
            return super().held
        parts = self._laid_out(range(len(self._flat)), super().held)
        self._mark_padding(parts[_TAGS])
        return parts

    @property
    def metadata(self) -> tuple[Tensor, ...]:
        """Return padded copies of the tags and places."""
        if not self._flat:
            return super().metadata
        parts = self._laid_out(range(_STATES, len(self._flat)), super().metadata, PaddedRoom())
        self._mark_padding(parts[0])
        return parts

    @property
    def metadata_widths(self) -> tuple[int, ...]:
        """Return the width of each part of the metadata; empty before the first entry."""
        return tuple(part.shape[-1] for part in (self._flat or self._whole)[_STATES:])

    def copy(self, part: int) -> Tensor:
        """Return a padded copy of the keys (0) or values (1)."""
        if not self._flat:
            return super().states[part].clone()
        return self._laid_out([part], super().states[part : part + 1], PaddedRoom())[0]

    def real(self) -> Tensor:
        """Return which padded entries of earlier passes are real, (batch, heads, longest) bool."""
        if self._fronts is None:
            fronts = [[self.longest - count for count in heads] for heads in self.counts]
            self._fronts = torch.tensor(fronts, device=self.samples[0].device)
        return torch.arange(self.longest, device=self.samples[0].device) >= self._fronts[..., None]

    def assign(self, parts: Sequence[Tensor]) -> None:
        """Replace the entries by ones that share no memory with the buffers; padding has a negative token index."""
        self.clear()
        super().append(parts)
        self.keep_uneven(parts[_TAGS][..., Tags.INDEX] >= 0)

    def keep_uneven(self, stays: Tensor) -> None:
        """Keep the entries that stay, without gaps; their number in each head is read from the device.

        Args:
            stays: mask over the entries of `held`, (batch, heads, n) bool; in each row it keeps a multiple of the
                heads.
        """
        parts = self.held
        counts = stays.sum(dim=-1).tolist()
        slots = top(stays.flatten().int(), sum(map(sum, counts)))
        if self._flat:
            capacity = self.span
        else:
            parts, capacity = self._whole, self.capacity
        length = stays.shape[-1]
        lines = slots // length * capacity + slots % length
        self._flat = ()  # padded elsewhere: no need to hold it twice
        super().clear()
        self._flat = tuple(part.reshape(-1, part.shape[-1]).index_select(0, lines) for part in parts)
        lengths = [sum(heads) // len(heads) for heads in counts]
        self.counts, self.average, self._fronts = counts, max(lengths), None
        self.paddings = [self.average - length for length in lengths]

    def drop_last(self, entries: int) -> None:
        """Drop the newest entries of every head."""
        recent = min(entries, self.length)
        super().drop_last(recent)
        if earlier := entries - recent:
            counts = [[max(0, count - earlier) for count in heads] for heads in self.counts]
            self._select(lambda part: [piece[: max(0, len(piece) - earlier)] for piece in self._pieces(part)], counts)
            self.average -= earlier

    def map_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        """Change the batch of every tensor."""
        if self._whole:
            super().map_rows(change)
        if self._flat:
            rows, heads = change(torch.arange(len(self.counts))).tolist(), len(self.counts[0])
            pieces = [row * heads + head for row in rows for head in range(heads)]
            counts = [self.counts[row] for row in rows]
            self._select(lambda part: [self._pieces(part)[piece] for piece in pieces], counts)
            self.paddings = [self.paddings[row] for row in rows]

    def move(self, target: Tensor, rope: Rope) -> None:
        """Re-rotate every key to (t, h, w) `target`, padded, (batch, heads, span, 3)."""
        longest = self.longest
        if self._flat:
            pieces = [target[row, head, longest - count : longest] for row, head, count in self._heads]
            keys, values, tags, places = (part[None, None] for part in self._flat)
            whole = moved(Entries(keys, values, tags, places), torch.cat(pieces)[None, None], rope)
            self._flat = tuple(part[0, 0] for part in (whole.keys, whole.values, whole.tags, whole.places))
        if self.length:
            keys, values, tags, places = super().held
            recent = moved(Entries(keys, values, tags, places), target[:, :, longest:], rope)
            super().assign([recent.keys, recent.values.clone(), recent.tags.clone(), recent.places])

    def shift_index(self, shift: Tensor) -> None:
        """Move the token indices of each row by `shift`, (batch,) integers; padding has none."""
        if self._flat:
            lengths = torch.tensor([sum(heads) for heads in self.counts], device=self.samples[0].device)
            self._flat[_TAGS][:, Tags.INDEX] += shift.to(self._flat[_TAGS]).repeat_interleave(lengths)
        for part in super().metadata[:1]:
            index = part[..., Tags.INDEX]
            part[..., Tags.INDEX] = torch.where(index < 0, index, index + shift.to(index)[:, None, None])

    def clear(self) -> None:
        """Drop all entries and buffers."""
        super().clear()
        self._forget()

    def _select(self, change: Callable[[Tensor], Iterable[Tensor]], counts: list[list[int]]) -> None:
        self._flat = tuple(torch.cat(list(change(part))) for part in self._flat)
        self.counts, self._fronts = counts, None

    def _pieces(self, part: Tensor) -> tuple[Tensor, ...]:
        """Split a tensor of earlier passes by row and head."""
        return part.split([count for _, _, count in self._heads])

    @property
    def _heads(self) -> Iterator[tuple[int, int, int]]:
        """Iterate over rows and heads with their counts, in storage order."""
        return ((row, head, count) for row, counts in enumerate(self.counts) for head, count in enumerate(counts))

    def _laid_out(
        self, numbers: Iterable[int], recent: Sequence[Tensor], room: PaddedRoom | None = None
    ) -> tuple[Tensor, ...]:
        """Pad some tensors: entries of earlier passes with padding in front, then the newer ones.

        Args:
            numbers: indices of the tensors.
            recent: the newer entries of each; empty if there are none.
            room: destination; by default the memory shared by all layers.
        """
        longest, laid = self.longest, []
        for place, number in enumerate(numbers):
            part, dtype = self._flat[number], self._flat[number].dtype
            if recent:
                dtype = torch.promote_types(dtype, recent[place].dtype)
            shape = (len(self.counts), len(self.counts[0]), self.span, part.shape[-1])
            whole = (self._room if room is None else room).take(number, part, dtype, shape)
            for (row, head, count), piece in zip(self._heads, self._pieces(part), strict=True):
                whole[row, head, longest - count : longest] = piece
            if recent:
                whole[:, :, longest:] = recent[place]
            laid.append(whole)
        return tuple(laid)

    def _mark_padding(self, tags: Tensor) -> None:
        for row, head, count in self._heads:
            tags[row, head, : self.longest - count] = Kind.PADDING
