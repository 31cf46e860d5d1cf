"""Keep the entries with the smallest keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kvpress_video.compressor import Compressor, Entries

from ._directions import norms


@dataclass(frozen=True)
class KeyNorm(Compressor):
    """Keep the entries with the smallest ‖K‖₂, which in text models tend to receive the most attention."""

    source: ClassVar[str] = "Devoto et al. 2024, arXiv 2406.11430"
    year: ClassVar[int | None] = 2024
    family: ClassVar[str] = "norms"
    fidelity: ClassVar[str] = "exact"

    def scores(self, entries: Entries) -> Tensor:
        """Score entries by −‖K‖₂, (batch, kv_heads, n) fp32."""
        return -norms(entries.keys)
