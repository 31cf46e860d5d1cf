"""Reports of the gate: rich tables for terminals, Markdown for pull requests, JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from ...utils.formatting import plural
from ..formatting import interval, markdown_table, probability, short, span
from ..stats.summary import OVERALL
from .compare import Comparison, Gate

HEADER = ("method", "budget", "task", "base", "new", "change", "kept", "p", "")
WIDE_ONLY = ("base", "new", "kept")
_TEXT_COLUMNS = 3
"""Leading columns with text; the others hold numbers."""
_STYLES = {"fell": "red", "rose": "green", "tolerated": "yellow", "": ""}


def title(gate: Gate) -> str:
    """Name the verdict and the two sweeps."""
    return f"{'GREEN' if gate.green else 'RED'}: {gate.new} against {gate.base}"


def findings(gate: Gate) -> list[str]:
    """List drops, missing answers and improvements."""
    return [
        *(f"FELL: {_sentence(found)}" for found in gate.of("fell")),
        *(f"{'missing' if gate.allow_missing else 'MISSING'}: {missing}" for missing in gate.missing),
        *(
            f"fell, but not significantly below the fraction to keep: {_sentence(found)}"
            for found in gate.of("tolerated")
        ),
        *(f"rose: {_sentence(found)}" for found in gate.of("rose")),
    ]


def notes(gate: Gate) -> list[str]:
    """List the criterion, the minimum detectable drop, and conditions that differ between the sweeps."""
    unscored = [f"{plural(gate.unscored, 'question')} need a judge and are not counted."] if gate.unscored else []
    return [
        f"Red: significantly less than {100 * gate.keep:.4g}% of the base's accuracy is kept (one-sided p < "
        f"{gate.alpha:.4g}, clustered by video, Holm-corrected for {plural(len(gate.comparisons), 'comparison')}). "
        "Intervals: 95%.",
        *_power(gate),
        *unscored,
        *(f"Not the same in both: {change}." for change in gate.warnings),
    ]


def tables(gate: Gate, wide: bool = False) -> list[Table]:
    """Build a rich table per model and benchmark, of the overall comparisons and the tasks that changed.

    Args:
        gate: outcome of the comparison.
        wide: whether to show both accuracies and the fraction kept as well.
    """
    columns = [place for place, name in enumerate(HEADER) if wide or name not in WIDE_ONLY]
    made = []
    for caption, part in _parts(gate.comparisons):
        table = Table(title=escape(caption), title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
        for place in columns:
            table.add_column(HEADER[place], justify="left" if place < _TEXT_COLUMNS else "right", no_wrap=True)
        for found in part:
            if found.task == OVERALL or found.verdict:
                texts = _texts(found)
                table.add_row(*(escape(texts[place]) for place in columns), style=_STYLES[found.verdict])
        made.append(table)
    return made


def markdown(gate: Gate) -> str:
    """Write Markdown for a pull request: findings first, comparisons by task folded."""
    parts = [f"## {'✅' if gate.green else '❌'} {title(gate)}"]
    parts += _list(findings(gate))
    for caption, part in _parts(gate.comparisons):
        overall = [_texts(found) for found in part if found.task == OVERALL]
        parts += [f"### {caption}", markdown_table([HEADER, *overall], _TEXT_COLUMNS)]
        if len(overall) < len(part):
            every = markdown_table([HEADER, *map(_texts, part)], _TEXT_COLUMNS)
            parts += [f"<details><summary>by task</summary>\n\n{every}\n\n</details>"]
    return "\n\n".join([*parts, *_list(notes(gate))]) + "\n"


def as_json(gate: Gate) -> str:
    """Write everything as JSON; numbers that are not finite are null."""
    return json.dumps({"green": gate.green, **_plain(asdict(gate))}, indent=2, ensure_ascii=False, allow_nan=False)


def _power(gate: Gate) -> list[str]:
    passed = [found for found in gate.comparisons if found.verdict != "fell"]
    overall = [found for found in passed if found.task == OVERALL]
    tasks = [found for found in passed if found.task != OVERALL]
    if not overall:
        return []
    clusters = [found.difference.clusters for found in overall]
    counts = "–".join(dict.fromkeys([str(min(clusters)), str(max(clusters))]))
    falls = f"an overall fall below {_detectable(overall)}"
    falls += f", or below {_detectable(tasks)} on one task," if tasks else ""
    videos = f"{counts} video{'s' * (max(clusters) > 1)}"
    return [f"Green does not mean equal: with {videos}, {falls} would often go undetected (80% power)."]


def _detectable(part: Sequence[Comparison]) -> str:
    return span([found.detectable for found in part])


def _sentence(found: Comparison) -> str:
    gap = found.difference
    return (
        f"{found.method} {found.budget}, {found.task}, on {found.benchmark} by {found.model}: "
        f"{short(found.base.mean)} → {short(found.new.mean)}, {interval(gap, '+')}, "
        f"p {probability(found.p)}, {plural(gap.questions, 'question')} on {plural(gap.clusters, 'video')}"
    )


def _texts(found: Comparison) -> list[str]:
    return [
        found.method,
        found.budget,
        found.task,
        short(found.base.mean),
        short(found.new.mean),
        interval(found.difference, "+"),
        interval(found.retention),
        probability(found.p),
        found.verdict,
    ]


def _parts(comparisons: Sequence[Comparison]) -> list[tuple[str, list[Comparison]]]:
    parts: dict[str, list[Comparison]] = {}
    for found in comparisons:
        parts.setdefault(f"{found.model}, {found.benchmark}", []).append(found)
    return [
        (f"{name}: {plural(max(found.difference.questions for found in part), 'question')}", part)
        for name, part in parts.items()
    ]


def _list(lines: Sequence[str]) -> list[str]:
    return ["\n".join(f"- {line}" for line in lines)] if lines else []


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
