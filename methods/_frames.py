"""Sums and means over the cached entries of each frame, of which earlier passes may have left any number."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from kvpress_video.compressor import Entries


class Frames(NamedTuple):
    """The range of slots that the frame of each entry occupies.

    Attributes:
        start: first slot of the entry's frame, (batch, kv_heads, n) int64.
        end: slot after its last one, (batch, kv_heads, n) int64.
    """

    start: Tensor
    end: Tensor

    @classmethod
    def of(cls, entries: Entries) -> Frames:
        """Find the frames of entries, which are in sequence order."""
        frame = entries.frame.contiguous()
        return cls(torch.searchsorted(frame, frame), torch.searchsorted(frame, frame, right=True))

    @property
    def length(self) -> Tensor:
        """Cached entries of the entry's frame, (batch, kv_heads, n) int64."""
        return self.end - self.start

    @property
    def number(self) -> Tensor:
        """Number of cached frames, (batch, kv_heads, 1) fp32."""
        return (1 / self.length.double()).sum(dim=-1, keepdim=True).round().float()

    def total(self, states: Tensor) -> Tensor:
        """Sum states over the frame of each entry, (batch, kv_heads, n, width) in and, in fp32, out.

        Differences of running sums in fp64: unlike scattered additions they do not depend on the order of threads.
        """
        running = _running(states)
        return (_at(self.end, running) - _at(self.start, running)).float()

    def before(self, states: Tensor) -> Tensor:
        """Sum states over the earlier slots of each entry's frame, (batch, kv_heads, n, width) fp32."""
        running = _running(states)
        return (running[:, :, :-1] - _at(self.start, running)).float()

    def until(self, states: Tensor) -> Tensor:
        """Sum states over all entries up to the end of each entry's frame, (batch, kv_heads, n, width) fp32."""
        return _at(self.end, _running(states)).float()

    def mean(self, states: Tensor) -> Tensor:
        """Average states over the frame of each entry, (batch, kv_heads, n, width) in and, in fp32, out."""
        return self.total(states) / self.length[..., None]


def before_window(older: Entries, window: int) -> Entries:
    """Return entries as a segment that ends where a window of `window` entries, whole frames, begins."""
    grid = older.grid._replace(frames=older.grid.frames - window // older.grid.patches)
    return replace(older, context=replace(older.context, grid=grid))


def _running(states: Tensor) -> Tensor:
    """Return the sum of everything before each slot, (batch, kv_heads, n + 1, width) fp64."""
    return pad(states.double().cumsum(dim=2), (0, 0, 1, 0))


def _at(slots: Tensor, states: Tensor) -> Tensor:
    return states.gather(2, slots[..., None].expand(*slots.shape, states.shape[-1]))
