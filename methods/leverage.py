"""Keep the entries whose keys are statistical outliers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from kvpress_video.compressor import Compressor, Entries
from kvpress_video.errors import BudgetError

from ._rotation import unrotated

_RIDGE = 0.01


@dataclass(frozen=True)
class Leverage(Compressor):
    """Keep the entries with the highest ridge leverage scores of the un-rotated keys.

    score = xᵀ(XᵀX + 0.01·I)⁻¹x, where the rows x of X are the segment's cached keys, un-rotated, centred and projected
    to `sketch` dimensions by a Gaussian matrix. The matrix is the same in all layers and heads.

    Attributes:
        sketch: dimensions of the projection, at least 1; from the width of a head on, keys are not projected.
        seed: seed of the projection, an integer from 0.
    """

    sketch: int = 48
    seed: int = 0

    needs: ClassVar[frozenset[str]] = frozenset({"rope"})
    source: ClassVar[str] = "leverage scores of Compactor, Chari & Van Durme 2025, arXiv 2507.08143"
    year: ClassVar[int | None] = 2025
    family: ClassVar[str] = "redundancy"
    fidelity: ClassVar[str] = "mechanism"

    def __post_init__(self) -> None:
        if self.sketch < 1:
            raise BudgetError(f"sketch must be at least 1 dimension, got {self.sketch}.")
        if self.seed < 0:
            raise BudgetError(f"seed must not be negative, got {self.seed}.")

    def scores(self, entries: Entries) -> Tensor:
        """Score entries by leverage, (batch, kv_heads, n) fp32, between 0 and 1."""
        keys = unrotated(entries)
        keys = keys - keys.mean(dim=2, keepdim=True)
        if self.sketch < keys.shape[-1]:
            keys = keys @ _projection(keys.shape[-1], self.sketch, self.seed).to(keys.device, non_blocking=True)
        identity = torch.eye(keys.shape[-1], device=keys.device)
        gram = keys.transpose(2, 3) @ keys + _RIDGE * identity
        factor = torch.linalg.cholesky_ex(gram).L
        whitened = torch.linalg.solve_triangular(factor, keys.transpose(2, 3), upper=False)
        return whitened.square().sum(dim=2)


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _projection(width: int, sketch: int, seed: int) -> Tensor:
    """Draw a cached Gaussian matrix of variance 1/sketch, (width, sketch) fp32 on the CPU; do not write to it."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(width, sketch, generator=draw) / sketch**0.5
