"""Keep the entries with the largest values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, avg_pool3d

from kvpress_video.compressor import Compressor, Entries
from kvpress_video.errors import BudgetError, MissingInputError, unknown_name

from ._directions import norms
from ._grid import grid_slots
from ._survivors import check_treatment, pseudo_frames

BY_VARIATION = "variation"
THRESHOLDS = "van_thresholds"
"""Where a model's configuration holds the thresholds, in `config.kvpress_video`."""
_KERNELS = (7, 5, 3)


@dataclass(frozen=True)
class VaN(Compressor):
    """Value norm: keep the entries with the largest ‖V‖₂, optionally averaged over neighbours.

    Average pooling has two rules, both with stride 1 and zero padding included in the mean. `True`, the rule of the
    released code, goes by depth: 7×7×7 over (frames, rows, columns) in the first quarter of the layers, 5×5 within the
    frame in the second, 3 along the sequence in the third, none in the fourth. `"variation"`, the paper's rule, goes by
    the coefficient of variation of the layer's norms, CV = std(‖V‖₂) / mean(‖V‖₂) over all heads and entries of a row:
    7×7 within the frame if CV < τ₁, 5×5 if CV < τ₂, 3×3 if CV < τ₃, else none. Windows shrink to the largest odd size
    that the grid allows, and are skipped below 3.

    Attributes:
        pooling: False for none (as by default in the released code), True, or `"variation"`.
        entries: treatment of survivors of earlier passes in pooling: `"tracked"` pools cached entries at their true
            patches; `"official"` pools them as whole frames in order, as the released code does.
        thresholds: τ₁ ≤ τ₂ ≤ τ₃ of `"variation"`; None for those stored with the model, `van_thresholds` in
            `config.kvpress_video`.
    """

    pooling: bool | str = False
    entries: str = "tracked"
    thresholds: tuple[float, ...] | None = None

    source: ClassVar[str] = "InfiniPot-V, Kim et al. 2025, arXiv 2506.15745 (VaN)"
    year: ClassVar[int | None] = 2025
    family: ClassVar[str] = "norms"
    fidelity: ClassVar[str] = "exact"

    def __post_init__(self) -> None:
        check_treatment(self.entries)
        if not isinstance(self.pooling, bool) and self.pooling != BY_VARIATION:
            raise unknown_name("value of pooling", str(self.pooling), ("True", "False", BY_VARIATION))
        if self.thresholds is not None:
            object.__setattr__(self, "thresholds", _checked(self.thresholds))

    def scores(self, entries: Entries) -> Tensor:
        """Score entries by ‖V‖₂, pooled if requested, (batch, kv_heads, n) fp32.

        Raises:
            BudgetError: the entries do not fill whole frames, which pooling with `entries="official"` requires.
            MissingInputError: pooling by variation without thresholds.
        """
        lengths = norms(entries.values)
        if not self.pooling:
            return lengths
        grid, pool = entries.grid, self._pool(entries, lengths)
        if entries.complete or self.entries == "official":
            return pool(lengths.unflatten(2, (pseudo_frames(entries), *grid[1:]))).flatten(2)
        slot = grid_slots(entries)

        def pooled(states: Tensor) -> Tensor:
            spread = lengths.new_zeros(*lengths.shape[:2], grid.tokens).scatter(2, slot, states)
            return pool(spread.unflatten(2, grid)).flatten(2)

        # The share of each mean that is not zero padding.
        border = pool(lengths.new_ones(lengths.shape[0], 1, *grid)).flatten(2)
        held = pooled(torch.ones_like(lengths))
        return (pooled(lengths) / held.clamp_min(1e-9) * border).gather(2, slot)

    def _pool(self, entries: Entries, lengths: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the pooling of a layer, a map of (batch, any, frames, rows, columns) to the same shape."""
        context = entries.context
        if self.pooling != BY_VARIATION:
            return partial(_pool_by_depth, quarter=context.layer // max(1, context.layers // 4))
        thresholds = self.thresholds
        if thresholds is None:
            if THRESHOLDS not in context.calibration:
                raise MissingInputError(
                    "Pooling by variation needs the model's thresholds: measure them with `kvpress-video probe "
                    "variation`, and store them in the model's configuration or pass thresholds=(τ₁, τ₂, τ₃)."
                )
            thresholds = _checked(context.calibration[THRESHOLDS])
        level = torch.bucketize(variation(entries, lengths), lengths.new_tensor(thresholds), right=True)
        return partial(_pool_by_level, level=level)


def variation(entries: Entries, lengths: Tensor) -> Tensor:
    """Compute std(‖V‖₂) / mean(‖V‖₂) over all heads and entries of each row.

    Args:
        entries: entries of one segment.
        lengths: their ‖V‖₂, (batch, kv_heads, n) fp32.

    Returns:
        (batch,) fp32.
    """
    spread = entries.context.spread
    mean, square = (spread.mean(part.mean(dim=2))[:, 0] for part in (lengths, lengths.square()))
    return (square - mean.square()).clamp_min(0).sqrt() / mean.clamp_min(1e-30)


def _checked(thresholds: tuple[float, ...]) -> tuple[float, ...]:
    found = tuple(float(each) for each in thresholds)
    if len(found) != 3 or not 0 <= found[0] <= found[1] <= found[2]:
        raise BudgetError(f"thresholds are three ascending numbers from 0, got {thresholds}.")
    return found


def _pool_by_depth(norms: Tensor, quarter: int) -> Tensor:
    """Average norms, (batch, heads, frames, rows, columns), over neighbours as the layer's quarter demands."""
    if quarter == 2:
        return avg_pool1d(norms.flatten(2), 3, stride=1, padding=1).view_as(norms)
    if quarter > 2:
        return norms
    size = _fitting((7, 5)[quarter], norms.shape[2:])
    return _averaged(norms, (size if quarter == 0 else 1, size, size))


def _pool_by_level(norms: Tensor, level: Tensor) -> Tensor:
    """Average norms, (batch, heads, frames, rows, columns), in each row with the window of its level, (batch,)."""
    pooled = [_averaged(norms, (1, size, size)) for size in (_fitting(size, norms.shape[3:]) for size in _KERNELS)]
    return torch.stack([*pooled, norms], dim=1)[torch.arange(len(level), device=level.device), level]


def _fitting(size: int, sides: tuple[int, ...]) -> int:
    """Return the largest odd size up to `size` that fits all sides."""
    size = min(size, *sides)
    return size - (size % 2 == 0)


def _averaged(norms: Tensor, kernel: tuple[int, int, int]) -> Tensor:
    if max(kernel) < 2:
        return norms
    return avg_pool3d(norms, kernel, stride=1, padding=tuple(side // 2 for side in kernel))
