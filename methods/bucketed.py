"""Keep the highest scores of a base method, spread over the whole video."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kvpress_video.compressor import Compressor, Entries
from kvpress_video.errors import BudgetError

from ._grid import grid_slots
from ._ranks import rank
from ._wrapper import ScoreWrapper


@dataclass(frozen=True)
class Bucketed(ScoreWrapper):
    """Keep the best entries, and of the others only as many as fit into buckets of positions.

    The tokens of the segment seen so far are divided in order into ⌈keep / capacity⌉ equal buckets. The ⌊free·keep⌋
    highest scores of the base stay; then the others in order of score, as long as fewer than `capacity` entries of
    their bucket stay. The highest remaining scores fill any budget that the buckets leave, such as those of evicted
    tokens.

    Attributes:
        base: method that scores the entries, a name or an instance; must implement `scores()`.
        free: fraction of the budget without bucket limits, 0 to 1.
        capacity: entries of a bucket, at least 1.
    """

    base: Compressor | str = "snapkv"
    free: float = 0.5
    capacity: int = 1

    source: ClassVar[str] = "after LiveVLM v2, arXiv 2505.15269"
    year: ClassVar[int | None] = 2025
    family: ClassVar[str] = "wrapper"
    fidelity: ClassVar[str] = "mechanism"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.free <= 1:
            raise BudgetError(f"free is a share of the budget between 0 and 1, got {self.free}.")
        if self.capacity < 1:
            raise BudgetError(f"capacity must be at least 1 entry, got {self.capacity}.")
        object.__setattr__(self, "stages", self._base.stages)

    def ranking(self, entries: Entries, keep: int) -> Tensor:
        """Rank free entries first, then those within the capacity of their bucket, (batch, kv_heads, n) int64."""
        place = rank(self.checked_scores(entries))
        buckets = max(1, -(-keep // self.capacity))
        within = rank(-place, grid_slots(entries) * buckets // entries.grid.tokens)
        turn = torch.where(place < int(self.free * keep), 2, (within < self.capacity).long())
        return turn * len(entries) - place
