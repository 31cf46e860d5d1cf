"""Keep the first entries and the newest ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kvpress_video.compressor import Compressor, Entries
from kvpress_video.errors import BudgetError
from kvpress_video.utils.formatting import plural


@dataclass(frozen=True)
class SinkWindow(Compressor):
    """Keep the first visual entries of the segment, as attention sinks, and the newest ones.

    Attributes:
        sinks: number of first entries to keep, at least 0.
    """

    sinks: int = 4

    stages: ClassVar[tuple[str, ...]] = ("cache", "input")
    source: ClassVar[str] = "StreamingLLM, arXiv 2309.17453"
    year: ClassVar[int | None] = 2023
    family: ClassVar[str] = "recency"
    fidelity: ClassVar[str] = "mechanism"

    def __post_init__(self) -> None:
        if self.sinks < 0:
            raise BudgetError(f"sinks must not be negative, got {self.sinks}.")

    def select(self, entries: Entries, keep: int) -> Tensor:
        """Select the entries that stay: (batch, kv_heads, keep) int64, ascending, the same in all heads.

        Raises:
            BudgetError: the budget holds no entry in addition to the sinks.
        """
        if keep <= self.sinks:
            raise BudgetError(
                f"A budget of {plural(keep, 'entry')} leaves no window after {plural(self.sinks, 'sink')}: "
                f"ask for at least {self.sinks + 1}, or set fewer sinks."
            )
        place = torch.arange(len(entries), device=entries.keys.device)
        chosen = torch.cat([place[: self.sinks], place[len(entries) - keep + self.sinks :]])
        return chosen.expand(*entries.keys.shape[:2], -1)
