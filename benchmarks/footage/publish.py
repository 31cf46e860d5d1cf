"""Publish the results on real footage: the table of `docs/footage.md` and its figure.

python -m kvpress_video.benchmarks.footage.measure --out benchmarks/results/footage.json
python -m kvpress_video.benchmarks.footage.publish
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from kvpress_video.budget import UNCOMPRESSED
from kvpress_video.report.style import FAINT, drawing, save

from ..publishing.sweep import fill_files

Row = Mapping[str, Any]

SHOWN = "12.5%"
"""Budget of the figure, and of all columns except agreement."""
COLUMNS = 3
"""Number of panels per row of the figure."""
BRIGHTEST = 4.0
"""Density, relative to an even spread, at which fields are darkest."""


def _mebibytes(count: float) -> str:
    return f"{count / 2**20:.2f}"


def _percent(share: float) -> str:
    return f"{share:.0%}"


FIGURES: dict[str, tuple[str, Callable[[float], str]]] = {
    "changing": ("patches that change", "{:.2f}".format),
    "cuts": ("first step of a shot", "{:.2f}".format),
    "newest": ("newest quarter", "{:.2f}".format),
    "empty": ("steps without an entry", _percent),
    "seconds": ("seconds", "{:.2f}".format),
    "bytes": ("MiB", _mebibytes),
    "peak_bytes": ("peak MiB", _mebibytes),
}
"""Columns of the table at that budget: heading, and format of the figure."""


def table(rows: Sequence[Row]) -> str:
    """Format means over the clips, one line per method."""
    budgets = list(dict.fromkeys(row["budget"] for row in rows if row["method"] != UNCOMPRESSED))
    header = ["method", *(f"same answers, {budget}" for budget in budgets), *(head for head, _ in FIGURES.values())]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        at = [row for row in mine if row["budget"] == SHOWN] or mine
        same = [_mean([row for row in mine if row["budget"] == budget], "agreement", _percent) for budget in budgets]
        kept = [_mean(at, name, written) for name, (_, written) in FIGURES.items()]
        lines.append([method, *same, *kept])
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def draw(rows: Sequence[Row], clips: Sequence[Row], picture: Path) -> None:
    """Draw the entries that each method kept of every step, a panel per clip."""
    shown = [row for row in rows if row["budget"] == SHOWN]
    methods = list(dict.fromkeys(row["method"] for row in shown))[::-1]
    with drawing():
        figure = Figure(figsize=(4.2 * COLUMNS, (0.9 + 0.2 * len(methods)) * -(-len(clips) // COLUMNS)))
        grid = figure.subplots(-(-len(clips) // COLUMNS), COLUMNS, sharey=True, squeeze=False)
        for axes, clip in zip(grid.flat, clips, strict=False):
            kept = {row["method"]: row["entries"] for row in shown if row["clip"] == clip["clip"]}
            held = np.array([kept[method] for method in methods])
            seconds = np.arange(held.shape[1] + 1) * clip["step"]
            even = held / held.mean(axis=1, keepdims=True)
            axes.pcolormesh(seconds, np.arange(len(methods) + 1), even, cmap="YlGnBu", vmin=0, vmax=BRIGHTEST)
            axes.set_yticks(np.arange(len(methods)) + 0.5, methods)
            axes.tick_params(length=0)
            axes.grid(visible=False)
            axes.spines[:].set_visible(False)
            axes.set_title(clip["clip"], pad=8)
            axes.set_xlabel("seconds")
            for cut in clip["cuts"]:
                axes.axvline(cut, color=FAINT, linewidth=1, linestyle=":")
        for axes in grid.flat[len(clips) :]:
            axes.set_axis_off()
        figure.tight_layout()
        save(figure, picture)


def _mean(rows: Sequence[Row], name: str, written: Callable[[float], str]) -> str:
    found = [row[name] for row in rows if row.get(name) is not None]
    return written(mean(found)) if found else ""


def main() -> None:
    """Write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/footage.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/footage.md"))
    parser.add_argument("--picture", type=Path, default=Path("docs/footage.png"))
    options = parser.parse_args()
    result = json.loads(options.results.read_text())
    draw(result["rows"], result["clips"], options.picture)
    fill_files({options.page: {"footage": table(result["rows"])}})


if __name__ == "__main__":
    main()
