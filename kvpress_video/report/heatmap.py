"""Methods × tasks: the tasks on which each method wins and loses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..budget import UNCOMPRESSED
from ..sweep.stats.clustered import Floats
from ..sweep.stats.summary import OVERALL
from .axes import make_figure, panels
from .ranking import accuracy_of, budgets_of, finished
from .style import GRID, drawing, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..sweep.stats.summary import SummaryRow

_LONG_NAME = 10
"""Length of a task name above which all names are slanted."""
_DARK_FIELD = 0.55
"""Accuracy above which a field is dark enough for white digits."""


def draw_heatmap(summary: Sequence[SummaryRow], file: str | Path) -> Path:
    """Draw methods × tasks: a row of panels per budget, a panel per model, benchmark and group, best method on top.

    Args:
        summary: summary of a sweep.
        file: `.svg`, `.png` or `.pdf`.

    Raises:
        UnknownNameError: another suffix.
    """
    return save(heatmap(summary), file)


def at_budget(summary: Sequence[SummaryRow], budget: str) -> list[SummaryRow]:
    """Select the rows at a budget, and those of the full cache."""
    return [row for row in summary if row.budget == budget or row.method == UNCOMPRESSED]


def heatmap(summary: Sequence[SummaryRow]) -> Figure:
    """Make the figure that `draw_heatmap` writes."""
    found = panels(finished(summary))
    shown = {
        f"{title} · {budget}" if title else budget: at_budget(mine, budget)
        for budget in budgets_of(summary)
        for title, mine in found.items()
        if budget in budgets_of(mine)
    }
    tasks = list(dict.fromkeys(task for row in summary for task in row.accuracies if task != OVERALL))
    tasks = [*tasks, OVERALL] if len(tasks) != 1 else [OVERALL]
    longest = max(map(len, tasks))
    slanted = longest > _LONG_NAME
    column = 0.56 if slanted else max(0.5, 0.1 + 0.07 * longest)
    left = 0.35 + 0.072 * max((len(row.method) for row in summary), default=0)
    head = 0.45 + 0.045 * longest if slanted else 0.55
    rows = max((len(at) for at in shown.values()), default=5)
    with drawing():
        figure, grid = make_figure(
            len(shown), min(4, max(1, len(found))), head + 0.2 * rows, max(left + column * len(tasks), 2.5)
        )
        for axes, (title, at) in zip(grid, shown.items(), strict=True):
            _panel(axes, at, tasks, slanted)
            axes.set_title(title, pad=8)
    return figure


def _panel(axes: Axes, summary: Sequence[SummaryRow], tasks: Sequence[str], slanted: bool) -> None:
    ordered = sorted(summary, key=lambda row: (row.method != UNCOMPRESSED, -accuracy_of(row)))
    found = [[row.accuracies[task].mean if task in row.accuracies else np.nan for task in tasks] for row in ordered]
    draw_fields(axes, np.array(found), tasks, [row.method for row in ordered], angle=35 if slanted else 0)
    axes.invert_yaxis()


def draw_fields(
    axes: Axes,
    table: Floats,
    columns: Sequence[str],
    rows: Sequence[str],
    angle: int,
    write: Callable[[float], str] = "{:.2f}".format,
    **text: Any,
) -> None:
    """Draw accuracies as coloured fields with their numbers, the first row at the bottom.

    Args:
        axes: axes to draw in.
        table: accuracies, (rows, columns); nan if missing.
        columns, rows: names of the columns and rows.
        angle: angle of the column names.
        write: formats an accuracy.
        text: settings of the numbers.
    """
    axes.pcolormesh(table, cmap="YlGnBu", vmin=0, vmax=1, edgecolors=GRID, linewidth=0.5)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=angle, rotation_mode="anchor",
                    ha="left" if angle else "center")  # fmt: skip
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(table):
        if np.isfinite(value):
            axes.text(column + 0.5, row + 0.5, write(value), ha="center", va="center",
                      color="#ffffff" if value > _DARK_FIELD else "#111111", **text)  # fmt: skip
