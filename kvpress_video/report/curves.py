"""Accuracy against budget, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..sweep.stats.summary import OVERALL
from .axes import accuracy_axis, make_figure, panels
from .ranking import accuracy_of, budgets_of, compressed, finished, leaders, whole_of
from .style import INK, Style, drawing, save, styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..sweep.stats.summary import SummaryRow

_LABEL = 0.165
"""Inches from one method's name to the next."""
_AROUND = 1.05
"""Inches of a panel above and below its axes."""
_SIDEWAYS = 0.06
"""Share of the axis that the methods' points at one budget stand apart, so that their intervals can be seen."""


def draw_curves(lines: Sequence[SummaryRow], file: str | Path) -> Path:
    """Accuracy against budget with intervals, one panel per model, benchmark and group.

    Budgets of all units stand where the share of visual entries that they left is, under the name that was asked for.

    Args:
        lines: of a sweep.
        file: `.svg`, `.png` or `.pdf`.

    Raises:
        UnknownNameError: another suffix.
    """
    return save(curves(lines), file)


def curves(lines: Sequence[SummaryRow], looks: Mapping[str, Style] | None = None) -> Figure:
    """The figure that `draw_curves` writes.

    Args:
        lines: of a sweep.
        looks: the style of each method; their own by default.
    """
    looks = looks or styles(line.method for line in lines)
    found = panels(finished(lines))
    height = max(3.4, _AROUND + 0.15 + _LABEL * len({line.method for line in lines}))
    with drawing():
        figure, grid = make_figure(len(found), 2, height)
        for axes, (title, mine) in zip(grid, found.items(), strict=True):
            _panel(axes, mine, looks, _LABEL / (height - _AROUND))
            axes.set_title(title)
    return figure


def _panel(axes: Axes, lines: Sequence[SummaryRow], looks: Mapping[str, Style], gap: float) -> None:
    strong = leaders(lines)
    by_method: dict[str, list[SummaryRow]] = {}
    for line in sorted(compressed(lines), key=lambda line: -line.ratio):
        by_method.setdefault(line.method, []).append(line)
    ratios = budgets_of(lines)
    width = np.log(max(ratios.values(), default=1) / min(ratios.values(), default=1)) or 1.0
    aside = np.exp(width * _SIDEWAYS * np.linspace(-0.5, 0.5, max(2, len(by_method))))
    ends = {}
    for shift, (name, points) in zip(aside, by_method.items(), strict=False):
        ends[name] = (shift * points[-1].ratio, accuracy_of(points[-1]))
        _curve(axes, name, shift * np.array([line.ratio for line in points]), points, looks[name], name in strong)
    accuracy_axis(axes, lines)
    _budget_axis(axes, ratios)
    for group in {line.group for line in lines}:
        if whole := whole_of(lines, group):
            axes.axhline(accuracy_of(whole), color=INK, linestyle=":", linewidth=1.4, zorder=2)
    _names(axes, ends, looks, strong, gap)


def _curve(axes: Axes, name: str, x: np.ndarray, points: Sequence[SummaryRow], look: Style, strong: bool) -> None:
    found = [line.accuracies[OVERALL] for line in points]
    width, size, alpha, bar, order = (1.8, 5.5, 1.0, 0.55, 4) if strong else (1.1, 4.5, 0.38, 0.22, 3)
    (line,) = axes.plot(x, [each.mean for each in found], color=look.colour, linestyle=look.line, linewidth=width,
                        marker=look.marker, markersize=size, markeredgewidth=0, alpha=alpha, zorder=order)  # fmt: skip
    bars = axes.vlines(x, [each.low for each in found], [each.high for each in found], color=look.colour,
                       linewidth=width * 0.6, alpha=bar, zorder=2)  # fmt: skip
    line.set_gid(f"method:{name}")
    bars.set_gid(f"method:{name}")


def _budget_axis(axes: Axes, ratios: Mapping[str, float]) -> None:
    """Towards the smallest budget; budgets that come to nearly the same share one tick."""
    axes.set_xscale("log")
    axes.set_xlabel("budget: share of visual entries kept")
    axes.minorticks_off()
    axes.grid(axis="x", visible=False)
    places: dict[float, list[str]] = {}
    for budget, ratio in ratios.items():
        near = next((place for place in places if abs(np.log(place / ratio)) < 0.12), ratio)
        places.setdefault(near, []).append(budget)
    axes.set_xticks(list(places), ["\n".join(names) for names in places.values()])
    if places:
        axes.set_xlim(max(places) * 1.18, min(places) / 1.1)


def _names(
    axes: Axes,
    ends: Mapping[str, tuple[float, float]],
    looks: Mapping[str, Style],
    strong: Sequence[str],
    gap: float,
) -> None:
    """Names at the right, each level with the end of its line as far as the others leave room."""
    low, high = axes.get_ylim()
    wanted = {name: (y - low) / (high - low) for name, (_, y) in ends.items()}
    order = sorted(wanted, key=lambda name: -wanted[name])
    for name, height in zip(order, spread([wanted[name] for name in order], gap), strict=True):
        colour = looks[name].colour
        label = axes.annotate(
            name,
            xy=ends[name],
            xytext=(1.05, height),
            textcoords="axes fraction",
            va="center",
            color=colour,
            weight="bold" if name in strong else "normal",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.6, "relpos": (0, 0.5)},
        )
        label.set_gid(f"method:{name}")


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Places between 0 and 1, as near to the wanted ones, which fall, as `gap` between neighbours allows.

    Where there is no room for all gaps, they are equal and as large as fits.
    """
    gap = min(gap, 1 / max(1, len(wanted) - 1))
    places: list[float] = []
    for want in wanted:
        places.append(min(want, places[-1] - gap if places else 1.0))
    floor = 0.0
    for number in reversed(range(len(places))):
        places[number] = max(places[number], floor)
        floor = places[number] + gap
    return places
