"""Methods × tasks: where each method wins and loses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..compressor.registry import UNCOMPRESSED
from ..sweep.stats.summary import OVERALL
from .axes import make_figure, panels
from .ranking import accuracy_of, budgets_of, finished
from .style import GRID, drawing, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..sweep.stats.summary import SummaryRow

_LONG = 10
"""Letters of a task beyond which their names are set aslant."""
_DEEP = 0.55
"""Accuracy from which a field is so dark that its figure is white."""


def draw_heatmap(lines: Sequence[SummaryRow], file: str | Path) -> Path:
    """Methods × tasks, a row of panels per budget, one per model, benchmark and group, the best method on top; see
    `draw_curves`.
    """
    return save(heatmap(lines), file)


def at_budget(lines: Sequence[SummaryRow], budget: str) -> list[SummaryRow]:
    """The lines at a budget, and those of the full cache."""
    return [line for line in lines if line.budget == budget or line.method == UNCOMPRESSED]


def heatmap(lines: Sequence[SummaryRow]) -> Figure:
    """The figure that `draw_heatmap` writes."""
    found = panels(finished(lines))
    shown = {
        f"{title} · {budget}" if title else budget: at_budget(mine, budget)
        for budget in budgets_of(lines)
        for title, mine in found.items()
        if budget in budgets_of(mine)
    }
    tasks = list(dict.fromkeys(task for line in lines for task in line.accuracies if task != OVERALL))
    tasks = [*tasks, OVERALL] if len(tasks) != 1 else [OVERALL]
    longest = max(map(len, tasks))
    aslant = longest > _LONG
    column = 0.56 if aslant else max(0.5, 0.1 + 0.07 * longest)
    left = 0.35 + 0.072 * max((len(line.method) for line in lines), default=0)
    head = 0.45 + 0.045 * longest if aslant else 0.55
    rows = max((len(at) for at in shown.values()), default=5)
    with drawing():
        figure, grid = make_figure(
            len(shown), min(4, max(1, len(found))), head + 0.2 * rows, max(left + column * len(tasks), 2.5)
        )
        for axes, (title, at) in zip(grid, shown.items(), strict=True):
            _panel(axes, at, tasks, aslant)
            axes.set_title(title, pad=8)
    return figure


def _panel(axes: Axes, lines: Sequence[SummaryRow], tasks: Sequence[str], aslant: bool) -> None:
    ordered = sorted(lines, key=lambda line: (line.method != UNCOMPRESSED, -accuracy_of(line)))
    found = [[line.accuracies[task].mean if task in line.accuracies else np.nan for task in tasks] for line in ordered]
    table = np.array(found)
    axes.pcolormesh(table, cmap="YlGnBu", vmin=0, vmax=1, edgecolors=GRID, linewidth=0.5)
    axes.invert_yaxis()
    axes.set_xticks(np.arange(len(tasks)) + 0.5, tasks, rotation=35 if aslant else 0, rotation_mode="anchor",
                    ha="left" if aslant else "center")  # fmt: skip
    axes.set_yticks(np.arange(len(ordered)) + 0.5, [line.method for line in ordered])
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    for (row, number), value in np.ndenumerate(table):
        if np.isfinite(value):
            axes.text(number + 0.5, row + 0.5, f"{value:.2f}", ha="center", va="center",
                      color="#ffffff" if value > _DEEP else "#111111")  # fmt: skip
