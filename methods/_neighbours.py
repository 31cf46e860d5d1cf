"""The cached entries around a place in a neighbouring frame."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from kvpress_video.compressor import Entries

NOWHERE = -1


class Neighbours(NamedTuple):
    """Slots by place: cached frames in order, their rows and columns, with a border of one place on every side.

    Attributes:
        slots: slot of the entry at each place, (batch, kv_heads, places) int64, `NOWHERE` without one.
        place: place of each entry, (batch, kv_heads, n) int64.
        frame, row: places from one cached frame to the next, and from one row to the next.
    """

    slots: Tensor
    place: Tensor
    frame: int
    row: int

    @classmethod
    def of(cls, entries: Entries) -> Neighbours:
        """Find the places of entries; frames of which nothing is cached have none."""
        frames, rows, columns = entries.grid
        row, patch = columns + 2, entries.patch.long()
        frame = (rows + 2) * row
        ordinal = pad((entries.frame.diff(dim=-1) > 0).cumsum(dim=-1), (1, 0))
        place = (ordinal + 1) * frame + (patch // columns + 1) * row + patch % columns + 1
        slots = place.new_full((*place.shape[:2], (min(frames, len(entries)) + 2) * frame), NOWHERE)
        own = torch.arange(len(entries), device=place.device).expand_as(place)
        return cls(slots.scatter(-1, place, own), place, frame, row)

    def around(self, frames: int) -> list[Tensor]:
        """Return the slots at the 3 × 3 places around each entry's own, so many cached frames later.

        Returns:
            Nine times (batch, kv_heads, n) int64.
        """
        moves = [frames * self.frame + down * self.row + right for down in (-1, 0, 1) for right in (-1, 0, 1)]
        return [self.slots.gather(-1, self.place + move) for move in moves]
