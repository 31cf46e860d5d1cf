"""Keep the entries that changed since the frame before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from kvpress_video.compressor import Compressor, Entries

from ._directions import directions
from ._rotation import unrotated


@dataclass(frozen=True)
class EVS(Compressor):
    """Efficient video sampling: keep the first frame, and the entries least like the same patch one frame earlier.

    score(t,j) = 1 − cos(x(t,j), x(t',j)), where x is the embedding before prefill, or the un-rotated key in the cache,
    and t' the latest earlier frame whose patch j is cached. An entry without one scores +inf.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"rope"})
    stages: ClassVar[tuple[str, ...]] = ("cache", "input")
    source: ClassVar[str] = "EVS, Bagrov et al. 2025, arXiv 2510.14624, as in vLLM"
    year: ClassVar[int | None] = 2025
    family: ClassVar[str] = "redundancy"
    fidelity: ClassVar[str] = "mechanism"

    def scores(self, entries: Entries) -> Tensor:
        """Score entries by their change, (batch, kv_heads, n) fp32, from 0 to 2, +inf where there is none earlier."""
        shown, before = directions(unrotated(entries)), _earlier(entries.patch)
        earlier = shown.gather(2, before.clamp_min(0)[..., None].expand_as(shown))
        return (1 - (shown * earlier).sum(dim=-1)).masked_fill(before < 0, torch.inf)


def _earlier(patch: Tensor) -> Tensor:
    """Find the slot of the latest earlier entry of the same patch, (batch, kv_heads, n) int64; −1 for none."""
    order = patch.argsort(dim=-1, stable=True)
    ordered = patch.gather(-1, order)
    before = torch.where(ordered[..., 1:] == ordered[..., :-1], order[..., :-1], -1)
    return torch.empty_like(order).scatter(-1, order, pad(before, (1, 0), value=-1))
