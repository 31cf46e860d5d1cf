"""Keep recent frames, and older entries whose change to a neighbouring frame reaches Otsu's threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kvpress_video.compressor import Compressor, Entries
from kvpress_video.errors import BudgetError

from ._directions import directions
from ._frames import Frames
from ._neighbours import NOWHERE, Neighbours
from ._ranks import rank
from ._rotation import unrotated

_FARTHEST = 2.0  # the largest 1 − cos


@dataclass(frozen=True)
class Otsu(Compressor):
    """Keep the last frames whole, then entries that changed by Otsu's threshold, then the rest, larger changes first.

    The distance of an entry to a frame is 1 − the largest cosine with the 3 × 3 patches around its own there, of
    embeddings before prefill or un-rotated keys in the cache. An entry changed if its distance to the previous or to
    the next cached frame is at least Otsu's threshold of these distances within its frame, and its cosine with the next
    frame is at most `alike`. So did an entry with no patch around it cached in the next frame. Among those that
    changed, and among the rest, the larger of the two distances decides.

    Attributes:
        recent: number of frames at the end that stay whole; only the newest that fit into half of the budget, but one
            if one fits into all of it.
        alike: cosine with the next frame above which an entry did not change, −1 to 1; 1 for no limit.
    """

    recent: int = 8
    alike: float = 0.8

    needs: ClassVar[frozenset[str]] = frozenset({"rope"})
    stages: ClassVar[tuple[str, ...]] = ("cache", "input")
    source: ClassVar[str] = "after FluxMem, arXiv 2603.02096, without its long-term merging; the fixed budget is ours"
    year: ClassVar[int | None] = 2026
    family: ClassVar[str] = "redundancy"
    fidelity: ClassVar[str] = "mechanism"

    def __post_init__(self) -> None:
        if self.recent < 0:
            raise BudgetError(f"recent is a number of frames from 0, got {self.recent}.")
        if not -1 <= self.alike <= 1:
            raise BudgetError(f"alike is a cosine between -1 and 1, got {self.alike}.")

    def scores(self, entries: Entries) -> Tensor:
        """Score entries by their larger distance, 4 more where they changed, (batch, kv_heads, n) fp32, from 0 to 6."""
        before, after = _distances(entries)
        frames, alone = Frames.of(entries), after.isnan()
        far = (before >= _thresholds(before, entries, frames)) | (after >= _thresholds(after, entries, frames))
        changed = alone | (far & (1 - after <= self.alike))
        return before.nan_to_num(0).maximum(after.nan_to_num(_FARTHEST)) + 2 * _FARTHEST * changed

    def ranking(self, entries: Entries, keep: int) -> Tensor:
        """Rank whole recent frames first, and then by score, (batch, kv_heads, n) fp32."""
        patches = entries.grid.patches
        whole = min(self.recent, max(keep // 2 // patches, int(patches <= keep)))
        return self.scores(entries).masked_fill(entries.frame >= entries.grid.frames - whole, torch.inf)


def _distances(entries: Entries) -> tuple[Tensor, Tensor]:
    """Compute the distances to the previous and to the next cached frame, (batch, kv_heads, n) fp32 each.

    NaN where no patch around the entry's is cached there.
    """
    shown, neighbours, found = directions(unrotated(entries)), Neighbours.of(entries), []
    for step in (-1, 1):
        nearest = shown.new_full(shown.shape[:3], -torch.inf)
        for slots in neighbours.around(step):
            theirs = shown.gather(2, slots.clamp_min(0)[..., None].expand_as(shown))
            alike = (shown * theirs).sum(dim=-1)
            nearest = nearest.maximum(alike.masked_fill(slots == NOWHERE, -torch.inf))
        found.append((1 - nearest).masked_fill(nearest.isneginf(), torch.nan))
    return found[0], found[1]


def _thresholds(distances: Tensor, entries: Entries, frames: Frames) -> Tensor:
    """Compute Otsu's threshold of the distances within the frame of each entry, without those that are NaN.

    Of all ways to split the sorted distances in two classes, it is the smallest of the upper class for the largest
    variance between the classes.

    Returns:
        (batch, kv_heads, n) fp32; 0 in a frame without distances.
    """
    order = distances.nan_to_num(torch.inf).argsort(dim=-1, stable=True)
    order = order.gather(-1, entries.frame.gather(-1, order).argsort(dim=-1, stable=True))
    ordered = distances.gather(-1, order)
    states = torch.stack([(~ordered.isnan()).float(), ordered.nan_to_num(0)], dim=-1)
    low, high = frames.before(states), frames.total(states)
    high = high - low
    difference = low[..., 1] / low[..., 0].clamp_min(1) - high[..., 1] / high[..., 0].clamp_min(1)
    between = low[..., 0] * high[..., 0] * difference.square()
    best = (rank(between, entries.frame) == 0) & ~ordered.isnan()
    return frames.total((ordered.nan_to_num(0) * best)[..., None])[..., 0]
