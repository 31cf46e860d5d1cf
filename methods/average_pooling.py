"""Average neighbouring entries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from kvpress_video.compressor import Compressor, Entries, Grid, Kept
from kvpress_video.errors import BudgetError

from ._merging import averaged

_LEAST, _PARTS = 64, 16  # windows are averaged in _PARTS batches of at least _LEAST windows


@dataclass(frozen=True)
class AveragePooling(Compressor):
    """Average the entries of `keep` windows of neighbouring patches.

    In the cache, keys are un-rotated, averaged, and re-rotated at the mean position; values, positions and importance
    are averaged directly, as are embeddings before prefill. A merged entry carries the tags of the entry nearest the
    centre of its window. A complete grid is partitioned by `groups`. Entries that earlier passes merged are merged with
    their neighbours in sequence order, in `keep` windows whose sizes differ by at most one.

    Attributes:
        temporal: number of adjacent frames that share windows, at least 1; fewer if the budget allows more windows than
            one per patch of such a group of frames.
    """

    temporal: int = 1

    needs: ClassVar[frozenset[str]] = frozenset({"rope"})
    stages: ClassVar[tuple[str, ...]] = ("cache", "input")
    source: ClassVar[str] = "baseline; keys un-rotated before averaging"
    family: ClassVar[str] = "merging"
    fidelity: ClassVar[str] = "exact"

    def __post_init__(self) -> None:
        if self.temporal < 1:
            raise BudgetError(f"temporal must be at least 1 frame, got {self.temporal}.")

    def select(self, entries: Entries, keep: int) -> Tensor:
        """Select the entry nearest the centre of each window: (batch, kv_heads, keep) int64, ascending."""
        return self._windows(entries, keep).centres.expand(*entries.keys.shape[:2], -1)

    def reduce(self, entries: Entries, keep: int) -> Kept:
        """Put the mean of each window into the slot of its centre."""
        if not keep:
            return Kept(torch.empty((*entries.keys.shape[:2], 0), dtype=torch.long, device=entries.keys.device))
        windows, parts = self._windows(entries, keep), []
        for some in windows.split(max(_LEAST, keep // _PARTS)):
            here = entries.gather(some.members.flatten().expand(*entries.keys.shape[:2], -1))
            parts.append(averaged(here, some.mean, some.lenders.expand(*entries.keys.shape[:2], -1)))
        merged = replace(Entries.join(parts, dim=2), context=entries.context)
        return Kept(windows.centres.expand(*entries.keys.shape[:2], -1), merged)

    def _windows(self, entries: Entries, keep: int) -> Windows:
        device = entries.keys.device
        if entries.complete:
            return _grid_windows(entries.grid, keep, self.temporal, device)
        return _sequence_windows(len(entries), keep, device)


class Windows(NamedTuple):
    """Partition of entries into windows, the same for all rows and heads.

    Attributes:
        members: entries of each window, padded to the size of the largest, (windows, size) int64.
        counted: False for padding, (windows, size) bool.
        centres: entry nearest the centre of each window, (windows,) int64, ascending.
    """

    members: Tensor
    counted: Tensor
    centres: Tensor

    @property
    def lenders(self) -> Tensor:
        """Index of each centre among the flattened members, (windows,) int64."""
        row = torch.arange(len(self.members), device=self.members.device) * self.members.shape[1]
        return row + (self.members == self.centres[:, None]).int().argmax(dim=1)

    def mean(self, states: Tensor) -> Tensor:
        """Average each window: states of all members (batch, kv_heads, windows·size, dim) to (…, windows, dim) fp32."""
        counted = self.counted[..., None]
        members = states.float().unflatten(2, self.members.shape)
        return torch.where(counted, members, 0.0).sum(dim=3) / counted.sum(dim=1)

    def split(self, most: int) -> Iterator[Windows]:
        """Iterate over batches of at most `most` windows."""
        return map(Windows._make, zip(*(part.split(most) for part in self), strict=True))

    def on(self, device: torch.device) -> Windows:
        """Copy the windows to a device."""
        return Windows(*(part.to(device) for part in self))


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def groups(grid: Grid, keep: int, temporal: int = 1) -> Tensor:
    """Assign each token of a complete grid to one of `keep` boxes, numbered in sequence order.

    Frames are divided evenly into slabs of `temporal` frames; of fewer, if there are more windows than patches per such
    slab; or into `keep` slabs of one window each, if there are fewer windows than slabs. Each slab gets ⌊keep/slabs⌋ or
    ⌈keep/slabs⌉ windows, the larger counts spread evenly over time, and `_cut` divides it in space.

    Args:
        grid: visual tokens of the segment.
        keep: number of windows.
        temporal: frames per slab.

    Returns:
        Window of each token, (grid.tokens,) int64 on the CPU; the identity if `keep` is all tokens. The result is
        cached: do not write to it.

    Raises:
        BudgetError: `keep` is not between 1 and the tokens of the grid.
    """
    if not 1 <= keep <= grid.tokens:
        raise BudgetError(f"Cannot pool {grid.tokens} tokens into {keep} windows: ask for 1 to {grid.tokens}.")
    slabs = min(keep, max(-(-grid.frames // temporal), -(-keep // grid.patches)))
    cut, first = [], 0
    for frames, windows in zip(_sizes(grid.frames, slabs), _sizes(keep, slabs), strict=True):
        cut += [first + _cut(grid.rows, grid.columns, windows)] * frames
        first += windows
    return torch.cat(cut)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _cut(rows: int, columns: int, count: int) -> Tensor:
    """Assign each patch of a frame to a window, (rows·columns,) int64: bands of rows, each divided into columns.

    Bands and windows are as equal in size as possible. The number of bands minimises the squared distance of patches to
    the centre of their window, so h'·w' windows whose sides divide evenly equal adaptive average pooling to h' × w'.
    """
    possible = [bands for bands in range(1, rows + 1) if bands <= count <= bands * columns]
    bands = min(possible, key=lambda bands: _spread(rows, columns, count, bands))
    column, cut, first = torch.arange(columns), [], 0
    for height, windows in zip(_sizes(rows, bands), _sizes(count, bands), strict=True):
        cut += [first + column * windows // columns] * height
        first += windows
    return torch.cat(cut)


def _spread(rows: int, columns: int, count: int, bands: int) -> int:
    """Compute 12 times the sum of squared distances of patches to the centre of their window."""
    return sum(
        height * width * (height**2 + width**2 - 2)
        for height, windows in zip(_sizes(rows, bands), _sizes(count, bands), strict=True)
        for width in _sizes(columns, windows)
    )


def _sizes(length: int, parts: int) -> list[int]:
    """Compute the sizes of the runs into which `place * parts // length` divides `length` places."""
    starts = [-(-part * length // parts) for part in range(parts + 1)]
    return [stop - start for start, stop in pairwise(starts)]


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _grid_windows(grid: Grid, keep: int, temporal: int, device: torch.device) -> Windows:
    members, counted = _members(groups(grid, keep, temporal), keep)
    axes = torch.stack([members // grid.patches, members % grid.patches // grid.columns, members % grid.columns])
    lowest, highest = axes.amin(dim=-1), axes.amax(dim=-1)  # padding repeats a member, so it changes neither
    frame, row, column = (lowest + highest) // 2
    return Windows(members, counted, (frame * grid.rows + row) * grid.columns + column).on(device)


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _sequence_windows(length: int, keep: int, device: torch.device) -> Windows:
    members, counted = _members(torch.arange(length) * keep // length, keep)
    return Windows(members, counted, (members[:, 0] + members.amax(dim=-1)) // 2).on(device)


def _members(group: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """List the members of each group, ascending and padded with the first one, and mark those that are not padding."""
    order = group.argsort(stable=True)
    sizes = torch.bincount(group, minlength=keep)
    start = (sizes.cumsum(0) - sizes)[:, None]
    slot = torch.arange(int(sizes.max()))
    counted = slot < sizes[:, None]
    return order[torch.where(counted, start + slot, start)], counted
