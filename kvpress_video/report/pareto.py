"""Accuracy against what it costs, and the points that no other beats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..utils.formatting import format_bytes, format_seconds
from .axes import accuracy_axis, make_figure, panels
from .ranking import accuracy_of, finished, front
from .style import FAINT, Style, drawing, save, styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..sweep.stats.summary import SummaryRow

_KEY_LINE = 12.2  # points
_NEAR = (0.055, 0.09)
"""Shares of the axes, across and up, within which two numbers would stand in each other's way."""


class Cost(NamedTuple):
    """What accuracy is bought with."""

    title: str
    name: str
    of: Callable[[SummaryRow], float]
    spell: Callable[[float], str]


MEMORY = Cost("memory", "cache held per question", lambda line: line.bytes, format_bytes)
TIME = Cost(
    "time",
    "compressing and answering, per clip",
    lambda line: line.compress_seconds + line.answer_seconds,
    format_seconds,
)


def draw_pareto(lines: Sequence[SummaryRow], file: str | Path) -> Path:
    """Memory and time against accuracy, a row of panels per model, benchmark and group; points that another one beats
    are dimmed, the others numbered. See `draw_curves`.
    """
    return save(pareto(lines), file)


def pareto(
    lines: Sequence[SummaryRow], looks: Mapping[str, Style] | None = None, costs: Sequence[Cost] = (MEMORY, TIME)
) -> Figure:
    """The figure that `draw_pareto` writes; `looks` as in `curves`, a column of panels per cost."""
    looks = looks or styles(line.method for line in lines)
    chosen = [(title, cost, _priced(mine, cost)) for title, mine in panels(finished(lines)).items() for cost in costs]
    longest = max((len(front(mine, cost.of)) for _, cost, mine in chosen), default=0)
    with drawing():
        figure, grid = make_figure(len(chosen), len(costs), 3.2 + _KEY_LINE / 72 * longest)
        for axes, (title, cost, mine) in zip(grid, chosen, strict=True):
            _panel(axes, mine, cost, looks, longest)
            axes.set_title(f"{title} · {cost.title}" if title else cost.title)
    return figure


def _priced(lines: Sequence[SummaryRow], cost: Cost) -> list[SummaryRow]:
    """Lines whose cost was measured."""
    return [line for line in lines if cost.of(line) > 0]


def _panel(axes: Axes, lines: Sequence[SummaryRow], cost: Cost, looks: Mapping[str, Style], room: int) -> None:
    best = front(lines, cost.of)
    for line in lines:
        look, wins = looks[line.method], line in best
        (point,) = axes.plot(cost.of(line), accuracy_of(line), look.marker, color=look.colour, markeredgewidth=0,
                             markersize=7.5 if wins else 5, alpha=1 if wins else 0.32,
                             zorder=4 if wins else 3)  # fmt: skip
        point.set_gid(f"method:{line.method}")
    axes.set_xscale("log")
    axes.set_xlabel(cost.name)
    accuracy_axis(axes, lines, head=0.12)
    _cost_axis(axes, [cost.of(line) for line in lines], cost.spell)
    steps = [(cost.of(line), accuracy_of(line)) for line in best]
    corners = [*steps[:1], *(point for (_, low), (x, high) in pairwise(steps) for point in ((x, low), (x, high)))]
    axes.plot([x for x, _ in corners], [y for _, y in corners], color=FAINT, linewidth=1.2, zorder=1)
    _numbers(axes, best, cost)
    _key(axes, best, cost, looks, room)


def _cost_axis(axes: Axes, values: Sequence[float], spell: Callable[[float], str]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    if not values:
        return
    low, high = min(values), max(values)
    beside = max((high / low) ** 0.07, 1.01)
    axes.set_xlim(low / beside, high * beside)
    ticks = [low] if high / low < 1.02 else list(np.geomspace(low, high, 4))
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: spell(value)))


def _numbers(axes: Axes, best: Sequence[SummaryRow], cost: Cost) -> None:
    """Their numbers over the points; points too close for that share one label, as in 8–11."""
    to_axes = axes.transScale + axes.transLimits
    bunches: list[list[tuple[int, float, float]]] = []
    for number, line in enumerate(best, 1):
        x, y = to_axes.transform((cost.of(line), accuracy_of(line)))
        near = bunches and x - bunches[-1][-1][1] < _NEAR[0] and y - bunches[-1][-1][2] < _NEAR[1]
        bunches = [*bunches[:-1], [*bunches[-1], (number, x, y)]] if near else [*bunches, [(number, x, y)]]
    for bunch in bunches:
        (first, left, _), (last, right, top) = bunch[0], bunch[-1]
        axes.annotate(f"{first}" if first == last else f"{first}–{last}", ((left + right) / 2, top + 0.03),
                      xycoords="axes fraction", ha="center", va="bottom", weight="bold", zorder=5)  # fmt: skip


def _key(axes: Axes, best: Sequence[SummaryRow], cost: Cost, looks: Mapping[str, Style], room: int) -> None:
    """What the numbers stand for, below the axis, in as many lines as `room`."""
    words = [f"{number}  {line.method} {line.budget}: {accuracy_of(line):.2f}, {cost.spell(cost.of(line))}"
             for number, line in enumerate(best, 1)]  # fmt: skip
    colours = [looks[line.method].colour for line in best]
    spare = room - len(best)
    for number, (text, colour) in enumerate(zip(words + [" "] * spare, colours + [FAINT] * spare, strict=True)):
        axes.annotate(text, (0, 0), xytext=(0, -42 - number * _KEY_LINE), xycoords="axes fraction",
                      textcoords="offset points", va="top", color=colour)  # fmt: skip
