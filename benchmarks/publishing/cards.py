"""Write the accuracies of the published sweep into the cards: `python -m kvpress_video.benchmarks.publishing.cards`."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from kvpress_video.budget import UNCOMPRESSED
from kvpress_video.compressor.base import Compressor
from kvpress_video.compressor.registry import make_method, name_of
from kvpress_video.utils.named_settings import parse

from .sweep import fill_files

MARK = "published"
REFERENCE = "random"

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


def main() -> None:
    """Fill the cards that have marks for the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--summary", type=Path, default=Path("benchmarks/results/every-method/summary.csv"))
    parser.add_argument("--cards", type=Path, default=Path("docs/methods"))
    options = parser.parse_args()
    found = read(options.summary)
    names = dict.fromkeys(parse(method)[0] for method in found)
    fill_files({options.cards / f"{name}.md": {MARK: table(rows_of(name, found), found)} for name in names})


if __name__ == "__main__":
    main()
