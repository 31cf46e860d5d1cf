"""Keep the entries with the largest values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, avg_pool3d

from kvpress_video.compressor import Compressor, Entries

from ._directions import norms
from ._survivors import check_treatment, pseudo_frames


@dataclass(frozen=True)
class VaN(Compressor):
    """Value norm: keep the entries with the largest ‖V‖₂, optionally averaged over neighbours.

    Average pooling depends on the layer as in the released code: 7×7×7 over (frames, rows, columns) in the first
    quarter of the layers, 5×5 within the frame in the second, 3 along the sequence in the third, none in the fourth;
    stride 1, zero padding included in the mean. The first two shrink to the largest odd size that frames, rows and
    columns allow, and are skipped below 3.

    Attributes:
        pooling: whether to pool (off by default, as in the released code).
        entries: treatment of survivors of earlier passes in pooling: `"tracked"` pools cached entries at their true
            patches; `"official"` pools them as whole frames in order, as the released code does.
    """

    pooling: bool = False
    entries: str = "tracked"

    source: ClassVar[str] = "InfiniPot-V, Kim et al. 2025, arXiv 2506.15745 (VaN)"
    year: ClassVar[int | None] = 2025
    family: ClassVar[str] = "norms"
    fidelity: ClassVar[str] = "exact"

    def __post_init__(self) -> None:
        check_treatment(self.entries)

    def scores(self, entries: Entries) -> Tensor:
        """Score entries by ‖V‖₂, pooled if requested, (batch, kv_heads, n) fp32.

        Raises:
            BudgetError: the entries do not fill whole frames, which pooling with `entries="official"` requires.
        """
        lengths = norms(entries.values)
        if not self.pooling:
            return lengths
        layer, layers, grid = entries.context.layer, entries.context.layers, entries.grid
        if entries.complete or self.entries == "official":
            return _pool(lengths.unflatten(2, (pseudo_frames(entries), *grid[1:])), layer, layers).flatten(2)
        slot = entries.frame.long() * grid.patches + entries.patch

        def pooled(states: Tensor) -> Tensor:
            spread = lengths.new_zeros(*lengths.shape[:2], grid.tokens).scatter(2, slot, states)
            return _pool(spread.unflatten(2, grid), layer, layers).flatten(2)

        border = _pool(lengths.new_ones(1, 1, *grid), layer, layers).flatten(
            2
        )  # share of each mean that is not zero padding
        held = pooled(torch.ones_like(lengths))
        return (pooled(lengths) / held.clamp_min(1e-9) * border).gather(2, slot)


def _pool(norms: Tensor, layer: int, layers: int) -> Tensor:
    """Average norms, (batch, kv_heads, frames, rows, columns), over neighbours as the layer's depth demands."""
    quarter = layer // max(1, layers // 4)
    if quarter == 2:
        return avg_pool1d(norms.flatten(2), 3, stride=1, padding=1).view_as(norms)
    if quarter > 2:
        return norms
    size = min((7, 5)[quarter], *norms.shape[2:])
    size -= size % 2 == 0
    if size < 2:
        return norms
    kernel = (size if quarter == 0 else 1, size, size)
    return avg_pool3d(norms, kernel, stride=1, padding=tuple(side // 2 for side in kernel))
