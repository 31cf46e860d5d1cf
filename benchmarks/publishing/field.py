"""Publish the comparison of all methods: the page `docs/every-method.md` and its figure.

    kvpress-video sweep benchmarks/grids/every-method.yaml --out sweeps/every-method
    python -m kvpress_video.benchmarks.streams.accuracy --grid benchmarks/grids/every-method.yaml \\
        --clips 8 --budgets 16 64 256 --out benchmarks/results/every-method/streams.json
    python -m kvpress_video.benchmarks.publishing.field sweeps/every-method
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import kvpress_video as kv
from kvpress_video.budget import UNCOMPRESSED
from kvpress_video.report.findings import Findings
from kvpress_video.report.heatmap import draw_fields
from kvpress_video.report.ranking import accuracy_of, finished
from kvpress_video.report.style import drawing, save
from kvpress_video.sweep.stats.inference import Difference
from kvpress_video.sweep.stats.summary import SummaryRow

from ..streams.publish import REFERENCE, Answered
from .sweep import fill_files, write_results

OURS = ("standby-novelty", "infinipot-v")
"""Methods that all others are compared with."""

Columns = Mapping[tuple[str, str], Mapping[str, float]]
"""Accuracy of each measured method, by panel and budget."""


def columns(summary: Sequence[SummaryRow], streams: Answered) -> dict[tuple[str, str], dict[str, float]]:
    """Collect the accuracies of one-shot prompts, by camera, and of streams, by kind of question."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    lines = finished(summary)
    budgets = list(dict.fromkeys(line.budget for line in lines if line.method != UNCOMPRESSED))
    for group in sorted({line.group for line in lines}, reverse=True):
        mine = [line for line in lines if line.group == group]
        whole = {line.method: accuracy_of(line) for line in mine if line.method == UNCOMPRESSED}
        for budget in budgets:
            at = {line.method: accuracy_of(line) for line in mine if line.budget == budget}
            found[f"prompt, {group} camera", budget] = whole | at
    for column in ("memory", "present"):
        for budget in streams.budgets:
            marks = {method: streams.accuracy(method, budget, column) for method in streams.methods}
            found[f"stream, {column}", budget] = {name: mark.mean for name, mark in marks.items() if mark}
    return found


def by_family(methods: Sequence[str]) -> list[str]:
    """Sort methods by family, the full cache first."""
    families = {info.name: info.family for info in kv.list_methods()}
    order = list(dict.fromkeys(families[name.partition(":")[0]] for name in methods))
    return sorted(methods, key=lambda name: order.index(families[name.partition(":")[0]]))


def short(method: str) -> str:
    """Return a method's name, with its settings if they fit."""
    return method if len(method) <= 34 else method[:32] + "…"


def draw(found: Columns, picture: Path) -> None:
    """Draw methods × budgets, with a panel for each camera and each kind of question in a stream.

    Args:
        found: the accuracies.
        picture: file to write.
    """
    panels = list(dict.fromkeys(panel for panel, _ in found))
    methods = by_family(list(dict.fromkeys(method for at in found.values() for method in at)))
    widths = [sum(panel == name for panel, _ in found) for name in panels]
    with drawing():
        figure = Figure(figsize=(2.6 + 0.52 * sum(widths), 1.0 + 0.2 * len(methods)), layout="constrained")
        grid = figure.subplots(1, len(panels), sharey=True, width_ratios=widths, squeeze=False)[0]
        for axes, panel in zip(grid, panels, strict=True):
            budgets = [budget for name, budget in found if name == panel]
            table = np.array([[found[panel, budget].get(name, np.nan) for budget in budgets] for name in methods])
            draw_fields(axes, table, budgets, [short(name) for name in methods], 40, _without_zero, fontsize=8)
            axes.set_title(panel, fontsize="medium")
        grid[0].invert_yaxis()
    save(figure, picture)


def _without_zero(accuracy: float) -> str:
    return f"{accuracy:.2f}".replace("0.", ".", 1)


def table(found: Columns) -> str:
    """Format accuracies as Markdown, one row per method, with the best of each column in bold."""
    methods = by_family(list(dict.fromkeys(method for at in found.values() for method in at)))
    best = {key: max(value for name, value in at.items() if name != UNCOMPRESSED) for key, at in found.items()}
    lines = [
        "| method | " + " | ".join(f"{panel} {budget}" for panel, budget in found) + " |",
        "| --- |" + " ---: |" * len(found),
    ]
    for name in methods:
        cells = []
        for key, at in found.items():
            text = f"{at[name]:.2f}" if name in at else "–"
            cells.append(f"**{text}**" if at.get(name) == best[key] and name != UNCOMPRESSED else text)
        lines.append(f"| {short(name)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def beaten(sweep: Path, reference: str) -> str:
    """List the prompt settings in which a method beats the reference, by the interval of the paired difference."""
    lines = [
        line
        for line in finished(Findings.read(sweep, reference).summary)
        if line.difference and line.method not in (reference, UNCOMPRESSED)
    ]
    gaps = [(f"`{short(line.method)}`, {line.group} camera, {line.budget}", line.difference) for line in lines]
    return _won(f"`{reference}` in prompts", [(name, gap) for name, gap in gaps if gap is not None])


def stream_beaten(streams: Answered) -> str:
    """List the stream settings in which a method beats the reference, likewise."""
    gaps = [
        (f"`{short(name)}`, {column}, {budget} entries", gap)
        for name in streams.methods
        if name not in (UNCOMPRESSED, REFERENCE)
        for column in ("memory", "present")
        for budget in streams.budgets
        if (gap := streams.difference(name, budget, column))
    ]
    return _won(f"`{REFERENCE}` in streams", gaps)


def _won(reference: str, gaps: Sequence[tuple[str, Difference]]) -> str:
    won = [(name, gap) for name, gap in gaps if gap.low > 0]
    lost = sum(gap.high < 0 for _, gap in gaps)
    text = f"Of {len(gaps)} comparisons with {reference}, the other method wins {len(won)} and loses {lost}"
    rows = [f"- {name}: {gap.mean:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}]" for name, gap in won]
    return text + (":\n\n" + "\n".join(rows) if rows else ".") + "\n"


def main() -> None:
    """Write the page, the figure and the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="folder of the finished sweep")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/every-method"))
    parser.add_argument("--page", type=Path, default=Path("docs/every-method.md"))
    parser.add_argument("--picture", type=Path, default=Path("docs/every-method.svg"))
    options = parser.parse_args()
    findings = Findings.read(options.sweep)
    streams = Answered.read(json.loads((options.results / "streams.json").read_text()))
    found = columns(findings.summary, streams)
    draw(found, options.picture)
    write_results(findings, options.results)
    texts = {"accuracies": table(found), "streams": stream_beaten(streams)}
    texts |= {f"against {reference}": beaten(options.sweep, reference) for reference in OURS}
    fill_files({options.page: texts})


if __name__ == "__main__":
    main()
