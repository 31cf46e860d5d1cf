"""Keep the entries whose values stand out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kvpress_video.compressor import Compressor, Entries
from kvpress_video.errors import BudgetError


@dataclass(frozen=True)
class Outstanding(Compressor):
    """Keep the entries whose values differ most from their mean, newer ones first.

    score = ‖V − mean of V over the cached entries‖₂ · (1 + recency · frame / frames)

    Attributes:
        recency: how much more an entry of the newest frame counts than one of the first, at least 0.
    """

    recency: float = 0.0

    source: ClassVar[str] = "the authors' own"
    year: ClassVar[int | None] = 2026
    family: ClassVar[str] = "redundancy"
    fidelity: ClassVar[str] = "ours"

    def __post_init__(self) -> None:
        if not self.recency >= 0:
            raise BudgetError(f"recency must be at least 0, got {self.recency}.")

    def scores(self, entries: Entries) -> Tensor:
        """Score entries by their distance from the mean value, (batch, kv_heads, n) fp32."""
        values = entries.values.float()
        distance = (values - values.mean(dim=2, keepdim=True)).norm(dim=-1)
        return distance * (1 + self.recency * entries.frame / entries.grid.frames)
