"""Write the accuracies of the published sweep into the cards: `python -m kvpress_video.benchmarks.publishing.cards`.

Further sweeps, each in a folder named after a method, give the paired differences of its card:

kvpress-video sweep benchmarks/grids/diversity.yaml --out sweeps/diversity
python -m kvpress_video.benchmarks.publishing.cards sweeps/diversity
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from kvpress_video.budget import UNCOMPRESSED
from kvpress_video.compressor.base import Compressor
from kvpress_video.compressor.registry import make_method, name_of
from kvpress_video.report.findings import Findings
from kvpress_video.sweep.formatting import markdown_table, short
from kvpress_video.sweep.stats.inference import holm
from kvpress_video.sweep.stats.summary import OVERALL
from kvpress_video.utils.named_settings import parse

from .sweep import fill_files, write_results

MARK = "published"
DIFFERENCES = "differences"
REFERENCE = "random"
ALPHA = 0.05
"""Level of the differences of one card together."""

Accuracies = Mapping[str, Mapping[str, Mapping[str, str]]]
"""Accuracy by method, camera and budget."""


def read(summary: Path) -> Accuracies:
    """Read overall accuracies of a published summary."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    with summary.open() as file:
        for row in csv.DictReader(file):
            if row["task"] == "overall" and row["method"] != UNCOMPRESSED and row["accuracy"]:
                at = found.setdefault(row["method"], {}).setdefault(row["group"], {})
                at[row["budget"]] = f"{float(row['accuracy']):.2f}"
    return found


def base_of(method: str) -> str | None:
    """Return the name of the method that a wrapper runs, or None for other methods."""
    name, settings = parse(method)
    base = getattr(make_method(name, **settings), "base", None)
    return name_of(base) if isinstance(base, Compressor) else None


def rows_of(name: str, found: Accuracies) -> list[str]:
    """Return the methods of a card's rows: the method with each setting that was run, its bases, and the reference."""
    own = [method for method in found if parse(method)[0] == name]
    bases = [base for base in map(base_of, own) if base and base in found]
    return list(dict.fromkeys([*own, *bases, REFERENCE]))


def table(methods: Sequence[str], found: Accuracies) -> str:
    """Format a row for each method and camera, and a column for each budget."""
    budgets = list(dict.fromkeys(budget for at in found.values() for on in at.values() for budget in on))
    lines = [
        "**In the published sweep** ([every method](../every-method.md)), accuracy on 24 clips of 32 frames:",
        "",
        "| | " + " | ".join(budgets) + " |",
        "| --- |" + " ---: |" * len(budgets),
    ]
    for method in methods:
        for camera, at in sorted(found[method].items(), reverse=True):
            cells = " | ".join(at.get(budget, "–") for budget in budgets)
            lines.append(f"| `{method}`, {camera} camera | {cells} |")
    return "\n".join(lines) + "\n"


def differences(summary: Path, method: str) -> str:
    """Format the paired differences of a method from the reference, with intervals; bold after Holm's correction."""
    with summary.open() as file:
        lines = [
            line
            for line in csv.DictReader(file)
            if (line["task"], line["method"], line["against"]) == (OVERALL, method, REFERENCE) and line["difference"]
        ]
    budgets = list(dict.fromkeys(line["budget"] for line in lines))
    corrected = holm([float(line["p"]) for line in lines])
    cells: dict[str, dict[str, str]] = {}
    for line, p in zip(lines, corrected, strict=True):
        mean, low, high = (
            short(float(line[name]), "+") for name in ("difference", "difference_low", "difference_high")
        )
        value = f"**{mean}**" if p < ALPHA else mean
        cells.setdefault(line["group"], {})[line["budget"]] = f"{value} [{low}, {high}]"
    rows = [
        [camera, *(at.get(budget, "–") for budget in budgets)] for camera, at in sorted(cells.items(), reverse=True)
    ]
    return markdown_table([[f"`{method}` − `{REFERENCE}`, camera", *budgets], *rows], 1) + "\n"


def main() -> None:
    """Fill the cards that have marks for the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", type=Path, nargs="*", help="finished sweeps for paired differences")
    parser.add_argument("--summary", type=Path, default=Path("benchmarks/results/every-method/summary.csv"))
    parser.add_argument("--cards", type=Path, default=Path("docs/methods"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/cards"))
    options = parser.parse_args()
    found = read(options.summary)
    names = dict.fromkeys(parse(method)[0] for method in found)
    texts = {name: {MARK: table(rows_of(name, found), found)} for name in names}
    for sweep in options.sweeps:
        write_results(Findings.read(sweep, REFERENCE), options.results / sweep.name)
    for paired in sorted(options.results.glob("*/summary.csv")):
        texts[paired.parent.name][DIFFERENCES] = differences(paired, paired.parent.name)
    fill_files({options.cards / f"{name}.md": each for name, each in texts.items()})


if __name__ == "__main__":
    main()
