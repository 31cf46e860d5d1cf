"""Draw accuracy against budget from a sweep: `python -m kvpress_video.benchmarks.figure demo docs/accuracy.svg`."""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

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


def draw(sweep: Path, picture: Path, methods: Iterable[str] = SHOWN) -> None:
    """Overall accuracy of each method at each ratio, still and moving camera side by side, with 95% intervals.

    Args:
        sweep: a sweep's folder; its `summary.csv` is read.
        picture: where to write; the ending says what (svg, png, pdf).
        methods: which, in the order of the legend.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plot

    curves: dict[str, dict[str, list[dict[str, str]]]] = defaultdict(lambda: defaultdict(list))
    with (sweep / "summary.csv").open() as file:
        for line in csv.DictReader(file):
            if line["family"] == "overall" and line["accuracy"]:
                curves[line["camera"]][line["method"]].append(line)
    cameras = sorted(curves, reverse=True)
    plot.rcParams.update({"font.size": 11, "svg.hashsalt": "kvpress-video", "axes.spines.top": False})
    figure, axes = plot.subplots(1, len(cameras), figsize=(5.2 * len(cameras), 4), sharey=True, squeeze=False)
    for axis, camera in zip(axes[0], cameras, strict=True):
        for offset, method in enumerate(methods):
            _curve(axis, curves[camera].get(method, []), method, 1 + 0.012 * (offset - 4))
        for line in curves[camera].get("full", []):
            axis.axhline(float(line["accuracy"]), color="black", linestyle=":", linewidth=1, label="full cache")
        axis.set_xscale("log", base=2)
        ticks = sorted({float(line["ratio"]) for found in curves[camera].values() for line in found} - {1.0})
        axis.set_xticks(ticks, [f"{tick:.4g}" if tick < 0.01 else f"{tick:.1%}" for tick in ticks])
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
    parser.add_argument("picture", type=Path, help="file to write, such as accuracy.svg")
    options = parser.parse_args()
    draw(options.sweep, options.picture)
