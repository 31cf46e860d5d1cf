"""Keep the entries that differ from the recent frames, then those with the largest values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from kvpress_video.compressor import Compressor, Entries
from kvpress_video.errors import BudgetError

from .tar import TaR
from .van import BY_VARIATION, VaN


@dataclass(frozen=True)
class InfiniPotV(Compressor):
    """InfiniPot-V: keep the selection of TaR within its share of the budget, and that of VaN for the rest.

    Of C entries, n_van = round((1 − tar_ratio)·C) and n_tar = C − n_van. Each head keeps the n_tar entries that `TaR`
    selects, recent frames included, and the n_van largest values among the others.

    The preset `"paper"` is that of the paper's tables, `"released"` the defaults of the released code.

    Attributes:
        tar_ratio: α, TaR's share of the budget, 0 to 1.
        recent_ratio: see `TaR`.
        pooling: see `VaN`.
        entries: see `TaR` and `VaN`.
        thresholds: see `VaN`.
    """

    tar_ratio: float = 0.5
    recent_ratio: float = 0.125
    pooling: bool | str = False
    entries: str = "tracked"
    thresholds: tuple[float, ...] | None = None

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"tar_ratio": 0.5, "recent_ratio": 0.125, "pooling": BY_VARIATION},
        "released": {"tar_ratio": 0.5, "recent_ratio": 0.25, "pooling": False, "entries": "official"},
    }
    source: ClassVar[str] = "InfiniPot-V, Kim et al. 2025, arXiv 2506.15745"
    year: ClassVar[int | None] = 2025
    family: ClassVar[str] = "mixture"
    fidelity: ClassVar[str] = "exact"

    def __post_init__(self) -> None:
        if not 0 <= self.tar_ratio <= 1:
            raise BudgetError(f"tar_ratio is a share between 0 and 1, got {self.tar_ratio}.")
        TaR(self.recent_ratio, self.entries)  # invalid settings fail here rather than at the first frame
        object.__setattr__(self, "thresholds", self._van.thresholds)

    @property
    def _van(self) -> VaN:
        return VaN(self.pooling, self.entries, self.thresholds)

    def ranking(self, entries: Entries, keep: int) -> Tensor:
        """Rank the selection of TaR first, and then by value norm, (batch, kv_heads, n) fp32."""
        for_tar = keep - round((1 - self.tar_ratio) * keep)
        new = TaR(self.recent_ratio, self.entries).select(entries, for_tar)
        return self._van.scores(entries).scatter(-1, new, torch.inf)
