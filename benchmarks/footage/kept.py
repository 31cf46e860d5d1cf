"""Four figures about the entries that a method keeps of a clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CHANGING = 0.25
"""Share of patches that count as changing: those that differ most from the previous step."""


@dataclass(frozen=True)
class Kept:
    """Distribution of the kept entries in a clip; 1 is an even spread.

    Attributes:
        changing: density of kept entries in the patches that change most, relative to an even spread.
        cuts: the same for the first step of every shot except the first; None for a clip of one shot.
        newest: the same for the newest quarter of the steps.
        empty: share of steps with no entry left in any layer or head.
    """

    changing: float
    cuts: float | None
    newest: float
    empty: float

    def rounded(self) -> dict[str, float | None]:
        return {name: value if value is None else round(value, 3) for name, value in asdict(self).items()}


def describe(shares: Floats, change: Floats, cuts: Sequence[int]) -> Kept:
    """Describe the kept entries.

    Args:
        shares: share of layers and heads that kept each patch, (steps, rows, columns).
        change: change of each patch since the previous step, (steps, rows, columns).
        cuts: steps at which a new shot begins.
    """
    rises = change >= np.quantile(change, 1 - CHANGING)
    step = np.arange(len(shares))
    return Kept(
        changing=_lift(shares, rises),
        cuts=_lift(shares, np.isin(step, cuts)) if cuts else None,
        newest=_lift(shares, step >= 0.75 * len(shares)),
        empty=float((shares.max(axis=(1, 2)) == 0).mean()),
    )


def changes(frames: NDArray[np.uint8], grid: tuple[int, int, int]) -> Floats:
    """Return the mean absolute difference of each patch from the same patch in the previous step; 0 in the first.

    Args:
        frames: (n, height, width, 3).
        grid: steps, rows and columns of the model's patches.

    Returns:
        (steps, rows, columns), in 0 … 255.
    """
    steps, rows, columns = grid
    grey = frames.mean(axis=-1)
    grey = np.stack([part.mean(axis=0) for part in np.array_split(grey, steps)])
    moved = np.abs(np.diff(grey, axis=0, prepend=grey[:1]))
    bands = [band.mean(axis=1) for band in np.array_split(moved, rows, axis=1)]
    cells = [[cell.mean(axis=1) for cell in np.array_split(band, columns, axis=1)] for band in bands]
    return np.array(cells).transpose(2, 0, 1)


def _lift(shares: Floats, where: NDArray[np.bool_]) -> float:
    """Return the density of kept entries at some patches or steps, relative to an even spread."""
    chosen = np.broadcast_to(where if where.ndim == 3 else where[:, None, None], shares.shape)
    return float(shares[chosen].sum() / shares.sum() / chosen.mean())
