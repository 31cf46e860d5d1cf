"""What all figures share: one panel per model, benchmark and group, and the axis that accuracy is on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .ranking import accuracy_of
from .style import FAINT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..sweep.stats.summary import SummaryRow

WIDTH = 4.85
"""Inches of one panel: 350 points, which are as many pixels on the narrowest screen."""


def panels(lines: Sequence[SummaryRow]) -> dict[str, list[SummaryRow]]:
    """Lines by model, benchmark and group, with a title of what tells these apart; groups are always named."""
    keys = [(line.model, line.benchmark, line.group) for line in lines]
    named = [len({key[part] for key in keys}) > 1 for part in range(2)] + [True]
    found: dict[str, list[SummaryRow]] = {}
    for key, line in zip(keys, lines, strict=True):
        title = " · ".join(name for name, tells in zip(key, named, strict=True) if tells and name)
        found.setdefault(title, []).append(line)
    return found


def make_figure(count: int, columns: int, height: float, width: float = WIDTH) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, each so many inches; without any it says that there is nothing to show."""
    from matplotlib.figure import Figure

    columns = min(columns, max(count, 1))
    rows = max(1, -(-count // columns))
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in grid[max(count, 1) :]:
        spare.remove()
    if not count:
        grid[0].set_axis_off()
        grid[0].text(0.5, 0.5, "No cell was finished.", ha="center", va="center", color=FAINT)
    return figure, grid[:count]


def accuracy_axis(axes: Axes, lines: Sequence[SummaryRow], head: float = 0.02) -> None:
    """Tenths around all means, and `head` times their span above, for what stands over the points."""
    means = [accuracy_of(line) for line in lines]
    low = max(0.0, np.floor(min(means, default=0) * 10 - 0.5) / 10)
    high = min(1.0, np.ceil(max(means, default=1) * 10 + 0.3) / 10)
    axes.set_ylim(low - 0.01 * (high - low), high + head * (high - low))
    axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= high + 1e-9])
    axes.set_ylabel("accuracy")
