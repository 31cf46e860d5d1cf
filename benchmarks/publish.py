"""Publish a sweep: draw accuracy against budget, and put its table into the README.

`python -m kvpress_video.benchmarks.publish demo` after `make demo`; needs matplotlib (extra `notebooks`).
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

Curves: TypeAlias = "dict[str, dict[str, list[dict[str, str]]]]"

BEGIN, END = "<!-- results -->\n", "<!-- /results -->"
SHOWN = {
    "standby-novelty": "#d1495b",
    "infinipot-v": "#00798c",
    "tar": "#66a182",
    "standby": "#edae49",
    "average-pooling": "#8d6a9f",
    "snapkv": "#3d5a80",
    "recent": "#9a8c98",
    "random": "#4a4e69",
}


def overall(sweep: Path) -> Curves:
    """The overall records of a sweep's `summary.csv`, by camera and method, in order."""
    curves: Curves = defaultdict(lambda: defaultdict(list))
    with (sweep / "summary.csv").open() as file:
        for line in csv.DictReader(file):
            if line["family"] == "overall" and line["accuracy"]:
                curves[line["camera"]][line["method"]].append(line)
    return curves


def table(curves: Curves) -> str:
    """Overall accuracy, a row per method, a column per camera and budget; the best of each column in bold."""
    cameras = sorted(curves, reverse=True)
    budgets = list(dict.fromkeys(line["budget"] for lines in curves[cameras[0]].values() for line in lines))
    budgets = [budget for budget in budgets if budget != "100%"]
    columns = [(camera, budget) for camera in cameras for budget in budgets]
    found = {
        (line["method"], camera, line["budget"]): float(line["accuracy"])
        for camera in cameras
        for lines in curves[camera].values()
        for line in lines
    }
    methods = list(curves[cameras[0]])
    best = {column: max(found.get((method, *column), 0) for method in methods) for column in columns}
    rows = [["method", *(f"{camera} {budget}" for camera, budget in columns)], ["---"] + ["---:"] * len(columns)]
    for method in methods:
        cells = []
        for camera, budget in columns:
            value = found.get((method, camera, budget), found.get((method, camera, "100%")))
            text = "" if value is None else f"{value:.2f}"
            cells.append(f"**{text}**" if value == best[camera, budget] and method != "full" else text)
        rows.append([method, *cells])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def write_table(readme: Path, text: str) -> None:
    """Replace what stands between the two result marks."""
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}{text}{END}{after}")


def draw(curves: Curves, picture: Path, methods: Iterable[str] = SHOWN) -> None:
    """Overall accuracy of each method at each ratio, still and moving camera side by side, with 95% intervals.

    Args:
        curves: from `overall`.
        picture: where to write; the ending says what (svg, png, pdf).
        methods: which, in the order of the legend.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plot

    cameras = sorted(curves, reverse=True)
    plot.rcParams.update({"font.size": 11, "svg.hashsalt": "kvpress-video", "axes.spines.top": False})
    figure, axes = plot.subplots(1, len(cameras), figsize=(5.2 * len(cameras), 4), sharey=True, squeeze=False)
    for axis, camera in zip(axes[0], cameras, strict=True):
        for offset, method in enumerate(methods):
            _curve(axis, curves[camera].get(method, []), method, 1 + 0.012 * (offset - 4))
        for line in curves[camera].get("full", []):
            axis.axhline(float(line["accuracy"]), color="black", linestyle=":", linewidth=1, label="full cache")
        axis.set_xscale("log", base=2)
        budgets = {float(line["ratio"]): line["budget"] for found in curves[camera].values() for line in found}
        ticks = sorted(budgets.keys() - {1.0})
        axis.set_xticks(ticks, [budgets[tick] for tick in ticks])
        axis.set_xlabel("visual entries kept")
        axis.set_title(f"{camera} camera")
        axis.set_ylim(0, 1.03)
        axis.grid(alpha=0.25)
    axes[0][0].set_ylabel("accuracy")
    axes[0][-1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.tight_layout()
    figure.savefig(picture, metadata={"Date": None} if picture.suffix == ".svg" else None)
    plot.close(figure)


def _curve(axis: Any, lines: list[dict[str, str]], method: str, shift: float) -> None:
    points = sorted(
        (float(line["ratio"]), *(float(line[name]) for name in ("accuracy", "low", "high"))) for line in lines
    )
    if not points:
        return
    ratios, means, lows, highs = zip(*points, strict=True)
    spread = [[m - low for m, low in zip(means, lows, strict=True)], [h - m for h, m in zip(highs, means, strict=True)]]
    axis.errorbar(
        [ratio * shift for ratio in ratios], means, spread, label=method, color=SHOWN.get(method), marker="o",
        markersize=4, linewidth=1.8, capsize=2, elinewidth=0.8,
    )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", type=Path, help="folder of a finished sweep")
    parser.add_argument("--picture", type=Path, default=Path("docs/accuracy.svg"))
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    options = parser.parse_args()
    records = overall(options.sweep)
    draw(records, options.picture)
    write_table(options.readme, table(records))
