"""Keep the newest entries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kvpress_video.compressor import Compressor, Entries


@dataclass(frozen=True)
class Recent(Compressor):
    """Keep the newest entries: a sliding window.

    A budget of N whole frames keeps the last N frames. The remainder of any other budget keeps the last patches of the
    frame before them.
    """

    stages: ClassVar[tuple[str, ...]] = ("cache", "input")
    source: ClassVar[str] = "baseline; the last N frames: SimpleStream, arXiv 2604.02317"
    year: ClassVar[int | None] = 2026
    family: ClassVar[str] = "recency"
    fidelity: ClassVar[str] = "exact"

    def scores(self, entries: Entries) -> Tensor:
        """Score entries by their place in the sequence, (batch, kv_heads, n) fp32."""
        place = torch.arange(len(entries), device=entries.keys.device, dtype=torch.float32)
        return place.expand(*entries.keys.shape[:2], -1)
