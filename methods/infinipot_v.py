"""Keep what is new to the recent frames, then what has long values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kvpress_video.compressor import Compressor, Entries, top
from kvpress_video.errors import BudgetError

from .tar import TaR
from .van import VaN


@dataclass(frozen=True)
class InfiniPotV(Compressor):
    """InfiniPot-V: TaR fills its share of the budget, VaN the rest.

    Of C entries, n_van = round((1 − tar_ratio)·C) and n_tar = C − n_van. Per head: the n_tar entries that `TaR` keeps,
    its last frames among them, then the longest values among the others.

    Attributes:
        tar_ratio: α, the share of the budget that TaR fills.
        recent_ratio, entries: see `TaR`.
        pooling: see `VaN`.
    """

    tar_ratio: float = 0.5
    recent_ratio: float = 0.25
    pooling: bool = False
    entries: str = "tracked"

    source: ClassVar[str] = "InfiniPot-V, Kim et al. 2025, arXiv 2506.15745"

    def __post_init__(self) -> None:
        if not 0 <= self.tar_ratio <= 1:
            raise BudgetError(f"tar_ratio is a share between 0 and 1, got {self.tar_ratio}.")
        TaR(self.recent_ratio, self.entries)  # wrong settings fail now, not at the first frame

    def select(self, entries: Entries, keep: int) -> Tensor:
        """Which entries stay: (batch, kv_heads, keep) int64, ascending."""
        for_tar = keep - round((1 - self.tar_ratio) * keep)
        new = TaR(self.recent_ratio, self.entries).select(entries, for_tar)
        lengths = VaN(self.pooling, self.entries).scores(entries)
        return top(lengths.scatter(-1, new, torch.inf), keep)
