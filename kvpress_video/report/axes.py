"""Shared layout of the figures: one panel per model, benchmark and group, and the accuracy axis."""

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
"""Inches of one panel: 350 points, as wide in pixels as the narrowest screen."""


def panels(summary: Sequence[SummaryRow]) -> dict[str, list[SummaryRow]]:
    """Split rows by model, benchmark and group; titles name the group, and model or benchmark where they differ."""
    keys = [(row.model, row.benchmark, row.group) for row in summary]
    in_title = [len({key[part] for key in keys}) > 1 for part in range(2)] + [True]
    found: dict[str, list[SummaryRow]] = {}
    for key, row in zip(keys, summary, strict=True):
        title = " · ".join(name for name, shown in zip(key, in_title, strict=True) if shown and name)
        found.setdefault(title, []).append(row)
    return found


def make_figure(count: int, columns: int, height: float, width: float = WIDTH) -> tuple[Figure, list[Axes]]:
    """Make a figure of `count` panels, each `width` × `height` inches; an empty one states that it is."""
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


def accuracy_axis(axes: Axes, summary: Sequence[SummaryRow], headroom: float = 0.02) -> None:
    """Set the accuracy axis to whole tenths around all means.

    Args:
        axes: of the panel.
        summary: the rows drawn in it.
        headroom: space above for labels, as a fraction of the axis.
    """
    means = [accuracy_of(row) for row in summary]
    low = max(0.0, np.floor(min(means, default=0) * 10 - 0.5) / 10)
    high = min(1.0, np.ceil(max(means, default=1) * 10 + 0.3) / 10)
    axes.set_ylim(low - 0.01 * (high - low), high + headroom * (high - low))
    axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= high + 1e-9])
    axes.set_ylabel("accuracy")
