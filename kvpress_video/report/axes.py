"""Shared layout of the figures: one panel per model, benchmark and group, and the accuracy axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .style import FAINT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..sweep.stats.summary import SummaryRow

WIDTH = 4.85
"""Inches of one panel: 350 points, as wide in pixels as the narrowest screen."""


def panels(summary: Sequence[SummaryRow]) -> dict[str, list[SummaryRow]]:
    """Split rows by model, benchmark and group; titles name the group, and model or benchmark if they differ."""
    keys = [(row.model, row.benchmark, row.group) for row in summary]
    in_title = [len({key[part] for key in keys}) > 1 for part in range(2)] + [True]
    found: dict[str, list[SummaryRow]] = {}
    for key, row in zip(keys, summary, strict=True):
        title = " · ".join(name for name, shown in zip(key, in_title, strict=True) if shown and name)
        found.setdefault(title, []).append(row)
    return found


def make_figure(count: int, columns: int, height: float, width: float = WIDTH) -> tuple[Figure, list[Axes]]:
    """Create a figure of `count` panels, each `width` × `height` inches; an empty figure says so."""
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


def accuracy_axis(axes: Axes, headroom: float = 0.02) -> None:
    """Set the accuracy axis from 0 to 1, so that no interval is cut and no difference looks larger than it is.

    Args:
        axes: axes of the panel.
        headroom: space above 1 for markers and labels.
    """
    axes.set_ylim(-0.01, 1 + headroom)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.set_ylabel("accuracy")
