"""The state of a layer before text that may be taken back."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch

from ..compressor.entries import Entries, take_slots
from .forward_pass import RowState


class LayerMark(NamedTuple):
    """The state of a layer to which it can be rewound.

    Attributes:
        logical, physical: tokens seen, entries held.
        rows: rows of the layer.
        broken: whether it was broken.
        recent: copies of the newest entries, for a layer that later reduces their precision.
    """

    logical: int
    physical: int
    rows: tuple[RowState, ...]
    broken: bool
    recent: Entries | None = None

    def restored(self, entries: Entries) -> Entries:
        """Return the entries with the original keys and values of those that were recent."""
        if self.recent is None:
            return entries
        known = self.recent.index.contiguous()
        place = torch.searchsorted(known, entries.index.contiguous()).clamp_max(known.shape[-1] - 1)
        same = (known.gather(-1, place) == entries.index)[..., None]
        keys, values = (take_slots(part, place) for part in (self.recent.keys, self.recent.values))
        keys, values = torch.where(same, keys, entries.keys), torch.where(same, values, entries.values)
        return replace(entries, keys=keys, values=values)
