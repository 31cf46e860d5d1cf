"""Publish the accuracy of methods on rooms and its spread: `docs/rooms.md` and its figure.

kvpress-video sweep benchmarks/grids/rooms.yaml --out sweeps/rooms
python -m kvpress_video.benchmarks.publishing.rooms sweeps/rooms
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median, stdev

from kvpress_video.budget import UNCOMPRESSED
from kvpress_video.report import draw_curves
from kvpress_video.report.findings import Findings
from kvpress_video.report.ranking import accuracy_of, budgets_of, finished
from kvpress_video.sweep.formatting import markdown_table
from kvpress_video.sweep.stats.summary import SummaryRow

from .sweep import SHOWN, fill_files, table, write_against, write_results

NEAR = 0.02
"""Distance from the accuracy of the full cache within which a method counts as equal to it."""
DIVIDED = "12.5%"
"""Budget of the table by family of questions."""
LEADER = "reconstruction"
"""Method with which all others are compared."""


def spread(lines: Sequence[SummaryRow]) -> str:
    """Format the spread of the methods' accuracies by budget and group."""
    done = finished(lines)
    whole = {line.group: accuracy_of(line) for line in done if line.method == UNCOMPRESSED}
    rows = [
        "| budget | camera | full | mean | median | standard deviation | within .02 of full |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for budget in budgets_of(done):
        for group, full in whole.items():
            found = [
                accuracy_of(line)
                for line in done
                if line.budget == budget and line.group == group and line.method != UNCOMPRESSED
            ]
            near = sum(accuracy >= full - NEAR for accuracy in found)
            rows.append(
                f"| {budget} | {group} | {full:.2f} | {fmean(found):.2f} | {median(found):.2f} | {stdev(found):.3f} "
                f"| {near} of {len(found)} |"
            )
    return "\n".join(rows) + "\n"


def families(lines: Sequence[SummaryRow]) -> str:
    """Format the accuracy of the full cache by family of questions, with intervals."""
    whole = {line.group: line.accuracies for line in finished(lines) if line.method == UNCOMPRESSED}
    tasks = list(dict.fromkeys(task for found in whole.values() for task in found))
    rows = [["camera", *tasks]]
    for group, found in whole.items():
        cells = [f"{found[task].mean:.2f} [{found[task].low:.2f}, {found[task].high:.2f}]" for task in tasks]
        rows.append([group, *cells])
    return markdown_table(rows, 1) + "\n"


def by_family(lines: Sequence[SummaryRow], budget: str) -> str:
    """Format the accuracy by family of questions at a budget, the mean of the groups: a row per method."""
    found: dict[str, dict[str, list[float]]] = {}
    for line in finished(lines):
        if line.method == UNCOMPRESSED or line.budget == budget:
            tasks = found.setdefault(line.method, {})
            for task, accuracy in line.accuracies.items():
                tasks.setdefault(task, []).append(accuracy.mean)
    rows = [[method, *(f"{fmean(means):.2f}" for means in tasks.values())] for method, tasks in found.items()]
    return markdown_table([["method", *next(iter(found.values()))], *rows], 1) + "\n"


def main() -> None:
    """Publish the sweep named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="folder of a finished sweep")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/rooms"))
    parser.add_argument("--page", type=Path, default=Path("docs/rooms.md"))
    parser.add_argument("--picture", type=Path, default=Path("docs/rooms-accuracy.svg"))
    options = parser.parse_args()
    findings = Findings.read(options.sweep)
    lines = findings.summary
    write_results(findings, options.results)
    write_against(LEADER, options.sweep, options.results, "Rooms")
    draw_curves([line for line in lines if line.method in (*SHOWN, LEADER, UNCOMPRESSED)], options.picture)
    texts = {
        "results": table(lines),
        "by family": by_family(lines, DIVIDED),
        "spread": spread(lines),
        "families": families(lines),
    }
    fill_files({options.page: texts})


if __name__ == "__main__":
    main()
