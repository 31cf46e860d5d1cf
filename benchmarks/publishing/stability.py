"""Publish the stability of the order of methods over models and clips, by Kendall's tau-b.

kvpress-video sweep benchmarks/grids/two-models.yaml --out sweeps/two-models
python -m kvpress_video.benchmarks.publishing.stability sweeps/two-models
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from kvpress_video.budget import UNCOMPRESSED
from kvpress_video.report.findings import Findings
from kvpress_video.sweep.gate.sweep_data import SweepData
from kvpress_video.sweep.results.records import Row

from .sweep import fill_files, write_results

RESAMPLES = 500
"""Number of resamples of the clips, and of random splits into halves."""

Scores = NDArray[np.float64]


def accuracies(rows: Sequence[Row]) -> dict[tuple[str, str], Scores]:
    """Return accuracies by model and budget, (methods, clips), in one order of methods and of clips.

    Only methods that answered every clip with every model and at every budget are included.
    """
    found: dict[tuple[str, str], dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.cell.name != UNCOMPRESSED and row.answered.score is not None:
            found[row.cell.model, row.cell.budget][row.cell.name, row.clip].append(row.answered.score)
    shared = set.intersection(*(set(scores) for scores in found.values()))
    clips = sorted({clip for scores in found.values() for _, clip in scores})
    names = {name for name, _ in shared}
    methods = sorted(name for name in names if all((name, clip) in shared for clip in clips))
    return {
        key: np.array([[fmean(scores[name, clip]) for clip in clips] for name in methods])
        for key, scores in found.items()
    }


def tau(one: Scores, other: Scores) -> float:
    """Return Kendall's tau-b of the order of methods by mean accuracy, from two arrays (methods, clips)."""
    return float(kendalltau(one.mean(axis=1).round(9), other.mean(axis=1).round(9)).statistic)


def between(one: Scores, other: Scores, dice: np.random.Generator) -> tuple[float, float, float]:
    """Return tau of two models on the same clips, and its 95% interval over resampled clips."""
    clips = one.shape[1]
    drawn = [dice.integers(clips, size=clips) for _ in range(RESAMPLES)]
    low, high = np.nanquantile([tau(one[:, each], other[:, each]) for each in drawn], [0.025, 0.975])
    return tau(one, other), float(low), float(high)


def halves(scores: Scores, dice: np.random.Generator) -> tuple[float, float, float]:
    """Return the mean tau between two random halves of the clips, and the range of its middle 95%."""
    clips = scores.shape[1]
    orders = [dice.permutation(clips) for _ in range(RESAMPLES)]
    taus = [tau(scores[:, order[: clips // 2]], scores[:, order[clips // 2 :]]) for order in orders]
    low, high = np.nanquantile(taus, [0.025, 0.975])
    return float(np.nanmean(taus)), float(low), float(high)


def table(rows: Sequence[Row]) -> str:
    """Format tau between each pair of models, and between halves of the clips for each model, by budget."""
    scores = accuracies(rows)
    models, budgets = (list(dict.fromkeys(part)) for part in zip(*scores, strict=True))
    dice = np.random.default_rng(0)
    lines = {f"`{one}` and `{other}`": {
        budget: between(scores[one, budget], scores[other, budget], dice) for budget in budgets
    } for one, other in combinations(models, 2)}  # fmt: skip
    lines |= {f"halves of the clips, `{model}`": {
        budget: halves(scores[model, budget], dice) for budget in budgets
    } for model in models}  # fmt: skip
    methods, clips = next(iter(scores.values())).shape
    written = [
        f"| {methods} methods, {clips} clips | " + " | ".join(budgets) + " |",
        "| --- |" + " ---: |" * len(budgets),
    ]
    for name, taus in lines.items():
        cells = [f"{middle:.2f} [{low:.2f}, {high:.2f}]" for middle, low, high in taus.values()]
        written.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(written) + "\n"


def main() -> None:
    """Publish the sweep named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="folder of a finished sweep of two or more models")
    parser.add_argument("--mark", default="stability", help="mark in the page between which the table is written")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/stability"))
    parser.add_argument("--page", type=Path, default=Path("docs/benchmarks.md"))
    options = parser.parse_args()
    write_results(Findings.read(options.sweep), options.results)
    fill_files({options.page: {options.mark: table(SweepData.read(options.sweep).rows)}})


if __name__ == "__main__":
    main()
