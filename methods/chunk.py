"""Keep or drop whole neighbourhoods of patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from kvpress_video.compressor import Entries, top
from kvpress_video.errors import BudgetError

from ._grid import grid_slots
from ._ranks import rank
from ._wrapper import ScoreWrapper


@dataclass(frozen=True)
class Chunk(ScoreWrapper):
    """Keep whole neighbourhoods of patches, by the mean score of a base method, the same in all heads of a layer.

    Each frame is divided into neighbourhoods of `rows` × `columns` patches; those at the right and lower edges may be
    smaller. The score of a neighbourhood is the mean of the base's scores over its cached entries and all heads. The
    best neighbourhoods stay whole; of the last one that fits in part, the first patches stay.

    Attributes:
        base: method that scores the entries, a name or an instance; must implement `scores()`.
        rows: height of a neighbourhood in patches, at least 1.
        columns: width of a neighbourhood in patches, at least 1.
    """

    rows: int = 3
    columns: int = 3

    source: ClassVar[str] = "after ChunkKV, Liu et al. 2025, arXiv 2502.00299; neighbourhoods in space are ours"
    year: ClassVar[int | None] = 2025
    family: ClassVar[str] = "wrapper"
    fidelity: ClassVar[str] = "mechanism"

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.rows, self.columns) < 1:
            raise BudgetError(f"rows and columns must be at least 1 patch, got {self.rows} and {self.columns}.")

    def scores(self, entries: Entries) -> Tensor:
        """Score entries by the mean of their neighbourhood, (batch, kv_heads, n) fp32."""
        return self._means(entries).expand(*entries.keys.shape[:2], -1).gather(2, self._neighbourhood(entries))

    def select(self, entries: Entries, keep: int) -> Tensor:
        """Select the entries that stay: (batch, kv_heads, keep) int64, ascending."""
        place = rank(self._means(entries)).expand(*entries.keys.shape[:2], -1)
        return top(-place.gather(2, self._neighbourhood(entries)), keep)

    def _means(self, entries: Entries) -> Tensor:
        """Average the scores of each neighbourhood, (batch, 1, neighbourhoods) fp32; -inf where nothing is cached."""
        scores, grid = self._base.checked_scores(entries).float(), entries.grid
        slot = grid_slots(entries)

        def summed(states: Tensor) -> Tensor:
            # Every entry has a slot of its own: the result does not depend on the order of additions.
            spread = states.new_zeros(*states.shape[:2], grid.tokens).scatter(2, slot, states).unflatten(2, grid)
            whole = pad(spread, (0, -grid.columns % self.columns, 0, -grid.rows % self.rows))
            boxes = whole.unflatten(4, (-1, self.columns)).unflatten(3, (-1, self.rows))
            return entries.context.spread.mean(boxes.sum(dim=(4, 6)).flatten(2))

        total, count = summed(scores), summed(torch.ones_like(scores))
        return torch.where(count > 0, total / count, -torch.inf)

    def _neighbourhood(self, entries: Entries) -> Tensor:
        """Number the neighbourhood of each entry, frame by frame in row-major order, (batch, kv_heads, n) int64."""
        grid = entries.grid
        down, across = -(-grid.rows // self.rows), -(-grid.columns // self.columns)
        row, column = entries.patch.long() // grid.columns // self.rows, entries.patch.long() % grid.columns
        return (entries.frame.long() * down + row) * across + column // self.columns
