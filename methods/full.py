"""Keep everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kvpress_video.compressor import Compressor, Entries
from kvpress_video.errors import BudgetError


@dataclass(frozen=True)
class Full(Compressor):
    """Keep every entry: the uncompressed cache, the reference of every comparison."""

    stages: ClassVar[tuple[str, ...]] = ("cache", "input")
    keeps_all: ClassVar[bool] = True
    source: ClassVar[str] = "baseline"
    family: ClassVar[str] = "reference"
    fidelity: ClassVar[str] = "exact"

    def select(self, entries: Entries, keep: int) -> Tensor:
        """Select every entry: (batch, kv_heads, n) int64, ascending.

        Raises:
            BudgetError: `keep` is less than n.
        """
        if keep < len(entries):
            raise BudgetError(
                f"'full' keeps everything and cannot bring {len(entries)} entries down to {keep}: "
                "give it a budget of 100%, or choose a method that compresses."
            )
        everything = torch.arange(len(entries), device=entries.keys.device)
        return everything.expand(*entries.keys.shape[:2], -1)
