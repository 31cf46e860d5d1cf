"""Publish whether a larger budget costs a method accuracy on rooms: a section of `docs/rooms.md`.

kvpress-video sweep benchmarks/grids/rooms-budgets.yaml --out sweeps/rooms-budgets
python -m kvpress_video.benchmarks.publishing.growth sweeps/rooms-budgets
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from kvpress_video.budget import UNCOMPRESSED
from kvpress_video.report.findings import Findings
from kvpress_video.sweep.formatting import interval, markdown_table, probability, short
from kvpress_video.sweep.results.records import Row
from kvpress_video.sweep.stats.growth import FallWithBudget, falls_with_budget
from kvpress_video.sweep.stats.pairing import Sample, levels

from .sweep import fill_files, write_results

ALPHA = 0.05
"""Level of the tests of all methods together."""


def accuracies(rows: Sequence[Row], falls: Sequence[FallWithBudget]) -> str:
    """Format the accuracy of each method over both cameras, a column for each budget, and its clearest fall.

    A dash marks budgets that a method refuses.
    """
    clearest = {fall.method: fall for fall in falls}
    methods = list(dict.fromkeys(row.cell.method for row in rows if row.cell.method != UNCOMPRESSED))
    budgets = list(dict.fromkeys(row.cell.budget for row in rows if row.cell.method != UNCOMPRESSED))
    table = [["method", *budgets, "clearest fall"]]
    for method in methods:
        found = [[row for row in rows if (row.cell.method, row.cell.budget) == (method, budget)] for budget in budgets]
        means = [_mean(each) if each else "–" for each in found]
        table.append([method, *means, _described(clearest.get(method))])
    return markdown_table(table, 1) + "\n"


def outcome(falls: Sequence[FallWithBudget], methods: int, clips: int) -> str:
    """Name the methods that lose accuracy with a larger budget, at a level of `ALPHA` for all methods together."""
    lost = ", ".join(f"`{fall.method}`" for fall in falls if fall.p < ALPHA / methods)
    return f"Of {methods} methods on {clips} clips, these lose accuracy when their budget grows: {lost or 'none'}.\n"


def _mean(rows: Sequence[Row]) -> str:
    return short(Sample.of(rows, levels(rows[0].cell.benchmark)).accuracy().mean)


def _described(fall: FallWithBudget | None) -> str:
    if fall is None or fall.difference.mean >= 0:
        return "none"
    return f"{interval(fall.difference, '+')} from {fall.smaller} to {fall.larger}, p {probability(fall.p)}"


def main() -> None:
    """Publish the sweep named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="folder of the finished sweep")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/rooms-budgets"))
    parser.add_argument("--page", type=Path, default=Path("docs/rooms.md"))
    options = parser.parse_args()
    findings = Findings.read(options.sweep)
    write_results(findings, options.results)
    falls = falls_with_budget(findings.rows, alpha=math.inf)
    methods = {row.cell.method for row in findings.rows} - {UNCOMPRESSED}
    clips = len({row.clip for row in findings.rows})
    texts = {
        "growth": accuracies(findings.rows, falls),
        "growth outcome": outcome(falls, len(methods), clips),
    }
    fill_files({options.page: texts})


if __name__ == "__main__":
    main()
