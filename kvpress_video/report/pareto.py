"""Accuracy against memory and time, and the Pareto front."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..utils.formatting import format_bytes, format_seconds
from .axes import accuracy_axis, make_figure, panels
from .ranking import accuracy_of, finished, pareto_front
from .style import FAINT, Style, assign_styles, drawing, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..sweep.stats.summary import SummaryRow

_LEGEND_LINE = 12.2  # points
_MERGED_NUMBERS = (0.055, 0.09)
"""Fractions of the axes, across and up, within which two numbers would overlap."""


class Cost(NamedTuple):
    """A cost that accuracy is drawn against.

    Attributes:
        title: title of the panel.
        name: name of the axis.
        of: returns the cost of a row.
        format: formats a cost.
    """

    title: str
    name: str
    of: Callable[[SummaryRow], float]
    format: Callable[[float], str]


MEMORY = Cost("memory", "cache held per question", lambda row: row.bytes, format_bytes)
TIME = Cost(
    "time",
    "compressing and answering, per clip",
    lambda row: row.compress_seconds + row.answer_seconds,
    format_seconds,
)


def draw_pareto(summary: Sequence[SummaryRow], file: str | Path) -> Path:
    """Draw accuracy against memory and time, a row of panels per model, benchmark and group.

    Points on the Pareto front are numbered, the others dimmed.

    Args:
        summary: summary of a sweep.
        file: `.svg`, `.png` or `.pdf`.

    Raises:
        UnknownNameError: another suffix.
    """
    return save(pareto(summary), file)


def pareto(
    summary: Sequence[SummaryRow], styles: Mapping[str, Style] | None = None, costs: Sequence[Cost] = (MEMORY, TIME)
) -> Figure:
    """Make the figure that `draw_pareto` writes.

    Args:
        summary: summary of a sweep.
        styles: style of each method; assigned in order by default.
        costs: one column of panels each.
    """
    styles = styles or assign_styles(row.method for row in summary)
    chosen = [
        (title, cost, _with_cost(mine, cost)) for title, mine in panels(finished(summary)).items() for cost in costs
    ]
    longest = max((len(pareto_front(mine, cost.of)) for _, cost, mine in chosen), default=0)
    with drawing():
        figure, grid = make_figure(len(chosen), len(costs), 3.2 + _LEGEND_LINE / 72 * longest)
        for axes, (title, cost, mine) in zip(grid, chosen, strict=True):
            _panel(axes, mine, cost, styles, longest)
            axes.set_title(f"{title} · {cost.title}" if title else cost.title)
    return figure


def _with_cost(summary: Sequence[SummaryRow], cost: Cost) -> list[SummaryRow]:
    """Select the rows whose cost was measured."""
    return [row for row in summary if cost.of(row) > 0]


def _panel(
    axes: Axes, summary: Sequence[SummaryRow], cost: Cost, styles: Mapping[str, Style], legend_lines: int
) -> None:
    front = pareto_front(summary, cost.of)
    for row in summary:
        style, on_front = styles[row.method], row in front
        (point,) = axes.plot(cost.of(row), accuracy_of(row), style.marker, color=style.colour, markeredgewidth=0,
                             markersize=7.5 if on_front else 5, alpha=1 if on_front else 0.32,
                             zorder=4 if on_front else 3)  # fmt: skip
        point.set_gid(f"method:{row.method}")
    axes.set_xscale("log")
    axes.set_xlabel(cost.name)
    accuracy_axis(axes, headroom=0.12)
    _cost_axis(axes, [cost.of(row) for row in summary], cost.format)
    steps = [(cost.of(row), accuracy_of(row)) for row in front]
    corners = [*steps[:1], *(point for (_, low), (x, high) in pairwise(steps) for point in ((x, low), (x, high)))]
    axes.plot([x for x, _ in corners], [y for _, y in corners], color=FAINT, linewidth=1.2, zorder=1)
    _numbers(axes, front, cost)
    _legend(axes, front, cost, styles, legend_lines)


def _cost_axis(axes: Axes, values: Sequence[float], format: Callable[[float], str]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    if not values:
        axes.xaxis.set_major_locator(NullLocator())
        axes.xaxis.set_minor_locator(NullLocator())
        return
    low, high = min(values), max(values)
    margin = max((high / low) ** 0.07, 1.01)
    axes.set_xlim(low / margin, high * margin)
    ticks = [low] if high / low < 1.02 else list(np.geomspace(low, high, 4))
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format(value)))


def _numbers(axes: Axes, front: Sequence[SummaryRow], cost: Cost) -> None:
    """Number the points of the front; points too close to each other share a label such as 8–11."""
    to_axes = axes.transScale + axes.transLimits
    bunches: list[list[tuple[int, float, float]]] = []
    for number, row in enumerate(front, 1):
        x, y = to_axes.transform((cost.of(row), accuracy_of(row)))
        near = bunches and x - bunches[-1][-1][1] < _MERGED_NUMBERS[0] and y - bunches[-1][-1][2] < _MERGED_NUMBERS[1]
        bunches = [*bunches[:-1], [*bunches[-1], (number, x, y)]] if near else [*bunches, [(number, x, y)]]
    for bunch in bunches:
        (first, left, _), (last, right, top) = bunch[0], bunch[-1]
        axes.annotate(f"{first}" if first == last else f"{first}–{last}", ((left + right) / 2, top + 0.03),
                      xycoords="axes fraction", ha="center", va="bottom", weight="bold", zorder=5)  # fmt: skip


def _legend(axes: Axes, front: Sequence[SummaryRow], cost: Cost, styles: Mapping[str, Style], lines: int) -> None:
    """Explain the numbers below the axis, padded to a number of lines."""
    texts = [f"{number}  {row.method} {row.budget}: {accuracy_of(row):.2f}, {cost.format(cost.of(row))}"
             for number, row in enumerate(front, 1)]  # fmt: skip
    colours = [styles[row.method].colour for row in front]
    spare = lines - len(front)
    for number, (text, colour) in enumerate(zip(texts + [" "] * spare, colours + [FAINT] * spare, strict=True)):
        axes.annotate(text, (0, 0), xytext=(0, -42 - number * _LEGEND_LINE), xycoords="axes fraction",
                      textcoords="offset points", va="top", color=colour)  # fmt: skip
