"""Publish the stability of the order of methods over models and clips, by Kendall's tau-b.

kvpress-video sweep benchmarks/grids/models.yaml --out sweeps/models \\
    --models bundled,benchmarks/models/second_seed,bundled-qwen3_vl
python -m kvpress_video.benchmarks.publishing.stability sweeps/models
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from kvpress_video.budget import UNCOMPRESSED
from kvpress_video.sweep.gate.sweep_data import SweepData
from kvpress_video.sweep.results.records import Row

from .sweep import fill_files

RESAMPLES = 500
"""Number of resamples of the clips, and of random splits into halves."""

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """Accuracies on the same clips.

    Attributes:
        methods: names, in the order of the rows.
        models, budgets: those that all cells share.
        scores: by model and budget, (methods, clips).
    """

    methods: list[str]
    models: list[str]
    budgets: list[str]
    scores: dict[tuple[str, str], Scores]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Table:
        """Collect the methods that answered every clip that all models saw, at every budget that all models have."""
        found: dict[tuple[str, str], dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
        for row in rows:
            if row.cell.name != UNCOMPRESSED and row.answered.score is not None:
                found[row.cell.model, row.cell.budget][row.cell.name, row.clip].append(row.answered.score)
        models, budgets = (list(dict.fromkeys(part)) for part in zip(*found, strict=True))
        budgets = [budget for budget in budgets if all((model, budget) in found for model in models)]
        kept = {(model, budget): found[model, budget] for model in models for budget in budgets}
        shared = set.intersection(*(set(scores) for scores in kept.values()))
        clips = sorted(set.intersection(*({clip for _, clip in scores} for scores in kept.values())))
        names = list(dict.fromkeys(row.cell.name for row in rows))
        methods = [name for name in names if all((name, clip) in shared for clip in clips)]
        arrays = {
            key: np.array([[fmean(scores[name, clip]) for clip in clips] for name in methods])
            for key, scores in kept.items()
        }
        return cls(methods, models, budgets, arrays)


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


def as_csv(found: Table, revisions: Mapping[str, str | None]) -> str:
    """Write the mean accuracies behind the published table, with the code's revision by model."""
    lines = ["model,budget,method,accuracy,clips,revision"]
    for (model, budget), scores in found.scores.items():
        lines += [
            f'{model},{budget},"{method}",{accuracy:.4f},{scores.shape[1]},{revisions[model]}'
            for method, accuracy in zip(found.methods, scores.mean(axis=1), strict=True)
        ]
    return "\n".join(lines) + "\n"


def as_markdown(found: Table) -> str:
    """Write tau between each two models, and between halves of the clips for each model, by budget."""
    dice, scores = np.random.default_rng(0), found.scores
    lines = {f"`{one}` and `{other}`": [
        between(scores[one, budget], scores[other, budget], dice) for budget in found.budgets
    ] for one, other in combinations(found.models, 2)}  # fmt: skip
    lines |= {f"halves of the clips, `{model}`": [
        halves(scores[model, budget], dice) for budget in found.budgets
    ] for model in found.models}  # fmt: skip
    clips = next(iter(scores.values())).shape[1]
    columns = " | ".join(found.budgets)
    written = [
        f"| {len(found.methods)} methods, {clips} clips | {columns} |",
        "| --- |" + " ---: |" * len(found.budgets),
    ]
    for name, taus in lines.items():
        cells = [f"{middle:.2f} [{low:.2f}, {high:.2f}]" for middle, low, high in taus]
        written.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(written) + "\n"


def main() -> None:
    """Publish the sweep named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", type=Path, nargs="+", help="folders of finished sweeps, with the same clips")
    parser.add_argument("--mark", default="stability", help="mark in the page between which the table is written")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/stability.csv"))
    parser.add_argument("--page", type=Path, default=Path("docs/results.md"))
    options = parser.parse_args()
    rows = [row for sweep in options.sweeps for row in SweepData.read(sweep).rows]
    found = Table.of(rows)
    fill_files({options.page: {options.mark: as_markdown(found)}})
    options.results.write_text(as_csv(found, {row.cell.model: row.measured.revision for row in rows}))


if __name__ == "__main__":
    main()
