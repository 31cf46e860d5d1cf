"""Keep evenly spaced frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kvpress_video.compressor import Compressor, Entries


@dataclass(frozen=True)
class Uniform(Compressor):
    """Keep m = ⌈keep / p⌉ whole frames, evenly spaced over the frames seen.

    The i-th of them is frame ⌊(2i + 1)·f / 2m⌋, the middle of the i-th of m equal intervals. If m·p exceeds `keep`, the
    oldest frame loses its last patches. A frame that earlier passes evicted is replaced by the nearest cached one, or
    by the next one after it that is not taken.
    """

    stages: ClassVar[tuple[str, ...]] = ("cache", "input")
    source: ClassVar[str] = "baseline"
    family: ClassVar[str] = "sampling"
    fidelity: ClassVar[str] = "exact"

    def select(self, entries: Entries, keep: int) -> Tensor:
        """Select the entries that stay: (batch, kv_heads, keep) int64, ascending."""
        frames, patches = entries.grid.frames, entries.grid.patches
        wanted = max(1, -(-keep // patches))
        excess = wanted * patches - keep
        order = torch.arange(keep, device=entries.keys.device)
        slot = order + excess
        offset = torch.where(slot < patches, order, slot % patches)
        middle = (2 * (slot // patches) + 1) * frames // (2 * wanted)
        frame = entries.frame.long().contiguous()
        place = _start_of_nearest(frame, middle.expand(*frame.shape[:2], -1).contiguous()) + offset
        place = (place - order).cummax(dim=-1).values + order  # select no entry twice
        return place.minimum(len(entries) - keep + order)


def _start_of_nearest(frame: Tensor, wanted: Tensor) -> Tensor:
    """Find the first entry of the cached frame nearest each wanted one; of two equally near frames, the older."""
    after = torch.searchsorted(frame, wanted)
    newer = frame.gather(-1, after.clamp_max(frame.shape[-1] - 1))
    older = frame.gather(-1, (after - 1).clamp_min(0))
    return torch.searchsorted(frame, torch.where(wanted - older <= (newer - wanted).abs(), older, newer))
