"""Keep the entries whose keys differ most from the mean key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import normalize

from kvpress_video.compressor import Compressor, Entries

from ._directions import likeness, mean_frame


@dataclass(frozen=True)
class KeyDiff(Compressor):
    """Keep the entries whose keys are least similar to the mean direction of all cached keys of the segment.

    score = −cos(K, mean of K̂), where K̂ = K / (‖K‖₂ + 1e-9).
    """

    source: ClassVar[str] = "KeyDiff, Park et al. 2025, arXiv 2504.15364"
    year: ClassVar[int | None] = 2025
    family: ClassVar[str] = "redundancy"
    fidelity: ClassVar[str] = "exact"

    def scores(self, entries: Entries) -> Tensor:
        """Score entries by −cos(K, mean of K̂), (batch, kv_heads, n) fp32."""
        return -likeness(entries.keys, normalize(mean_frame(entries.keys, 1), dim=-1))
