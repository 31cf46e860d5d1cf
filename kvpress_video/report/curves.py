"""Accuracy against budget, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..budget import Budget
from ..sweep.stats.summary import OVERALL
from .axes import accuracy_axis, make_figure, panels
from .ranking import accuracy_of, budgets_of, compressed, finished, full_cache, leaders
from .style import INK, Style, assign_styles, drawing, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..sweep.stats.summary import SummaryRow

_LABEL_DISTANCE = 0.165
"""Inches from one method's label to the next."""
_OUTSIDE_AXES = 1.05
"""Inches of a panel above and below its axes."""
_SPREAD = 0.06
"""Fraction of the axis over which the methods' points at one budget are spread, so that their intervals can be seen."""
_MERGED_TICKS = 0.12
"""Budgets whose ratios differ by less than this fraction share a tick."""


def draw_curves(summary: Sequence[SummaryRow], file: str | Path) -> Path:
    """Draw accuracy against budget with intervals, one panel per model, benchmark and group.

    Budgets of all units are placed by the fraction of visual entries that they kept, and labelled as requested. Lines
    connect ratios, which compress a video once, separately from other budgets, which compress it in chunks.

    Args:
        summary: summary of a sweep.
        file: `.svg`, `.png` or `.pdf`.

    Raises:
        UnknownNameError: another suffix.
    """
    return save(curves(summary), file)


def curves(summary: Sequence[SummaryRow], styles: Mapping[str, Style] | None = None) -> Figure:
    """Make the figure that `draw_curves` writes.

    Args:
        summary: summary of a sweep.
        styles: style of each method; assigned in order by default.
    """
    styles = styles or assign_styles(row.method for row in summary)
    found = panels(finished(summary))
    height = max(3.4, _OUTSIDE_AXES + 0.15 + _LABEL_DISTANCE * len({row.method for row in summary}))
    with drawing():
        figure, grid = make_figure(len(found), 2, height)
        for axes, (title, mine) in zip(grid, found.items(), strict=True):
            _panel(axes, mine, styles, _LABEL_DISTANCE / (height - _OUTSIDE_AXES))
            axes.set_title(title)
    return figure


def _panel(axes: Axes, summary: Sequence[SummaryRow], styles: Mapping[str, Style], gap: float) -> None:
    strong = leaders(summary)
    by_method: dict[str, list[SummaryRow]] = {}
    for row in sorted(compressed(summary), key=lambda row: -row.ratio):
        by_method.setdefault(row.method, []).append(row)
    ratios = budgets_of(summary)
    width = np.log(max(ratios.values(), default=1) / min(ratios.values(), default=1)) or 1.0
    shifts = np.exp(width * _SPREAD * np.linspace(-0.5, 0.5, max(2, len(by_method))))
    ends = {}
    for shift, (name, points) in zip(shifts, by_method.items(), strict=False):
        ends[name] = (shift * points[-1].ratio, accuracy_of(points[-1]))
        ratios_first = [[row for row in points if _is_ratio(row) is ratio] for ratio in (True, False)]
        for joined in filter(None, ratios_first):
            _curve(axes, name, shift * np.array([row.ratio for row in joined]), joined, styles[name], name in strong)
    accuracy_axis(axes)
    _budget_axis(axes, ratios)
    for group in {row.group for row in summary}:
        if full := full_cache(summary, group):
            axes.axhline(accuracy_of(full), color=INK, linestyle=":", linewidth=1.4, zorder=2)
    _labels(axes, ends, styles, strong, gap)


def _is_ratio(row: SummaryRow) -> bool:
    """Return whether the budget is a ratio, with which the video is compressed once rather than in chunks."""
    return Budget.parse(row.budget).unit == "ratio"


def _curve(axes: Axes, name: str, x: np.ndarray, points: Sequence[SummaryRow], style: Style, strong: bool) -> None:
    found = [row.accuracies[OVERALL] for row in points]
    width, size, alpha, bar, order = (1.8, 5.5, 1.0, 0.55, 4) if strong else (1.1, 4.5, 0.38, 0.22, 3)
    (curve,) = axes.plot(x, [each.mean for each in found], color=style.colour, linestyle=style.line,
                         linewidth=width, marker=style.marker, markersize=size, markeredgewidth=0, alpha=alpha,
                         zorder=order)  # fmt: skip
    bars = axes.vlines(x, [each.low for each in found], [each.high for each in found], color=style.colour,
                       linewidth=width * 0.6, alpha=bar, zorder=2)  # fmt: skip
    curve.set_gid(f"method:{name}")
    bars.set_gid(f"method:{name}")


def _budget_axis(axes: Axes, ratios: Mapping[str, float]) -> None:
    """Set a logarithmic axis from the largest budget to the smallest, with a tick per budget."""
    axes.set_xscale("log")
    axes.set_xlabel("budget: share of visual entries kept")
    axes.minorticks_off()
    axes.grid(axis="x", visible=False)
    places: dict[float, list[str]] = {}
    for budget, ratio in ratios.items():
        near = next((place for place in places if abs(np.log(place / ratio)) < _MERGED_TICKS), ratio)
        places.setdefault(near, []).append(budget)
    axes.set_xticks(list(places), ["\n".join(names) for names in places.values()])
    if places:
        axes.set_xlim(max(places) * 1.18, min(places) / 1.1)


def _labels(
    axes: Axes,
    ends: Mapping[str, tuple[float, float]],
    styles: Mapping[str, Style],
    strong: Sequence[str],
    gap: float,
) -> None:
    """Label the curves at the right, each as close to the height of its end as the others allow."""
    low, high = axes.get_ylim()
    wanted = {name: (y - low) / (high - low) for name, (_, y) in ends.items()}
    order = sorted(wanted, key=lambda name: -wanted[name])
    for name, height in zip(order, spread([wanted[name] for name in order], gap), strict=True):
        colour = styles[name].colour
        label = axes.annotate(
            name,
            xy=ends[name],
            xytext=(1.05, height),
            textcoords="axes fraction",
            va="center",
            color=INK,
            weight="bold" if name in strong else "normal",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 1.2, "relpos": (0, 0.5)},
        )
        label.set_gid(f"method:{name}")


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Move descending places between 0 and 1 apart until neighbours are at least `gap` apart.

    If that does not fit, all gaps are equal and as large as possible.
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
