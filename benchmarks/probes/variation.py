"""Thresholds for pooling by variation (InfiniPot-V), calibrated for one model: quartiles of its layers' variation."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from kvpress_video.methods.van import THRESHOLDS
from numpy.typing import NDArray

from . import calibration
from .visual_states import VisualStates


def by_layer(clips: Iterable[VisualStates]) -> NDArray[np.float64]:
    """Measure std(‖V‖₂) / mean(‖V‖₂) over heads and visual tokens, (clips, layers)."""
    lengths = [[values.double().norm(dim=-1) for values in clip.values] for clip in clips]
    return np.array([[float(each.std(correction=0) / each.mean()) for each in clip] for clip in lengths])


def thresholds(variations: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the quartiles over layers of the mean variation of each layer."""
    first, second, third = np.quantile(variations.mean(axis=0), (0.25, 0.5, 0.75))
    return float(first), float(second), float(third)


def store(folder: Path, found: tuple[float, float, float]) -> None:
    """Write thresholds into the configuration of a model's folder, from where compression reads them.

    Raises:
        BenchmarkError: the folder holds no configuration.
    """
    calibration.store(folder, THRESHOLDS, [round(each, 4) for each in found])
