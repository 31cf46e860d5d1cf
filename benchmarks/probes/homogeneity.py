"""Homogeneity of visual tokens by depth: how similar the layers make them (LaVer, arXiv 2512.06281)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from kvpress_video.report.style import FAINT, INK, drawing, save

from .visual_states import VisualStates


def homogeneity(states: Tensor) -> float:
    """Compute the mean cosine of two different tokens, of states (n, width) of at least two tokens."""
    unit = normalize(states.double(), dim=-1)
    count = len(unit)
    return float((unit.sum(dim=0).square().sum() - count) / (count * (count - 1)))


def centred(states: Tensor) -> Tensor:
    """Subtract the mean of all tokens, so that a common offset has no effect."""
    return states.double() - states.double().mean(dim=0)


def by_depth(clips: Iterable[VisualStates]) -> NDArray[np.float64]:
    """Measure the homogeneity of each clip's tokens, before the first text layer and after each.

    Returns:
        (2, clips, layers + 1): of the states, and of the centred states.
    """
    found = [
        [[homogeneity(states) for states in clip.hidden], [homogeneity(centred(states)) for states in clip.hidden]]
        for clip in clips
    ]
    return np.array(found).swapaxes(0, 1)


def rises(depths: NDArray[np.float64]) -> tuple[float, float]:
    """Return the mean rise of homogeneity, (clips, layers + 1), from the first column to the last, and half of its 95%
    interval over clips.
    """
    change = depths[:, -1] - depths[:, 0]
    return float(change.mean()), float(1.96 * change.std(ddof=1) / len(change) ** 0.5)


def draw(depths: NDArray[np.float64], file: Path) -> Path:
    """Draw homogeneity against depth, (2, clips, layers + 1) as from `by_depth`, with 95% intervals over clips.

    Args:
        depths: homogeneity of the states and of the centred states.
        file: `.svg`, `.png` or `.pdf`.

    Raises:
        UnknownNameError: another suffix.
    """
    with drawing():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5, 3.2), layout="constrained")
        axes = figure.subplots()
        layers = np.arange(depths.shape[2])
        for kind, mine, colour in zip(("states", "centred states"), depths, (INK, FAINT), strict=True):
            half = 1.96 * mine.std(axis=0, ddof=1) / len(mine) ** 0.5
            axes.errorbar(layers, mine.mean(axis=0), half, color=colour, marker="o", capsize=2, label=kind)
        axes.set(xlabel="text layers passed", ylabel="mean cosine of two visual tokens", xticks=layers)
        axes.legend(frameon=False)
    return save(figure, file)
