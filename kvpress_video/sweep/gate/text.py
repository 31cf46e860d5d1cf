"""What the gate of a build found: rich for the terminal, Markdown for a pull request, JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from ..formatting import bounds, half, markdown_table, plural, probability, short, span
from ..stats.summary import OVERALL
from .compare import Comparison, Gate

HEADER = ("method", "budget", "task", "base", "new", "change", "kept", "p", "")
_TEXTS = 3
_STYLES = {"fell": "red", "rose": "green", "tolerated": "yellow", "": ""}


def title(gate: Gate) -> str:
    """Green or red, and what was compared."""
    return f"{'GREEN' if gate.green else 'RED'}: {gate.new} against {gate.base}"


def findings(gate: Gate) -> list[str]:
    """What fell, what is missing, and what rose."""
    said = [f"FELL: {_sentence(found)}" for found in gate.of("fell")]
    said += [f"{'missing' if gate.allow_missing else 'MISSING'}: {missing}" for missing in gate.missing]
    said += [f"fell, but not significantly below what must be kept: {_sentence(f)}" for f in gate.of("tolerated")]
    return said + [f"rose: {_sentence(found)}" for found in gate.of("rose")]


def notes(gate: Gate) -> list[str]:
    """What the build is held to, what could not have been seen, and what makes the comparison less than fair."""
    return [
        f"Red is for keeping significantly less than {100 * gate.keep:.4g}% of the base's accuracy: one-sided p < "
        f"{gate.alpha:.4g}, by video, corrected for {plural(len(gate.comparisons), 'comparison')} (Holm). "
        "Intervals: 95%.",
        *_power(gate),
        *(
            [f"{plural(gate.unscored, 'question')} only a judge can score; nothing here counts them."]
            if gate.unscored
            else []
        ),
        *(f"Not the same in both: {what}." for what in gate.warnings),
    ]


def tables(gate: Gate) -> list[Table]:
    """A rich table per model and benchmark: every overall comparison, and the tasks that changed."""
    made = []
    for caption, part in _parts(gate.comparisons):
        table = Table(title=escape(caption), title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
        for place, name in enumerate(HEADER):
            table.add_column(name, justify="left" if place < _TEXTS else "right", no_wrap=True)
        for found in part:
            if found.task == OVERALL or found.verdict:
                table.add_row(*map(escape, _texts(found)), style=_STYLES[found.verdict])
        made.append(table)
    return made


def markdown(gate: Gate) -> str:
    """For a pull request: findings first, every comparison folded away below."""
    parts = [f"## {'✅' if gate.green else '❌'} {title(gate)}"]
    parts += _list(findings(gate))
    for caption, part in _parts(gate.comparisons):
        overall = [_texts(found) for found in part if found.task == OVERALL]
        parts += [f"### {caption}", markdown_table([HEADER, *overall], _TEXTS)]
        if len(overall) < len(part):
            every = markdown_table([HEADER, *map(_texts, part)], _TEXTS)
            parts += [f"<details><summary>by task</summary>\n\n{every}\n\n</details>"]
    return "\n\n".join([*parts, *_list(notes(gate))]) + "\n"


def as_json(gate: Gate) -> str:
    """All of it; numbers that are not finite are null."""
    return json.dumps({"green": gate.green, **_plain(asdict(gate))}, indent=2, ensure_ascii=False, allow_nan=False)


def _power(gate: Gate) -> list[str]:
    passed = [found for found in gate.comparisons if found.verdict != "fell"]
    overall = [found for found in passed if found.task == OVERALL]
    tasks = [found for found in passed if found.task != OVERALL]
    if not overall:
        return []
    clusters = [found.difference.clusters for found in overall]
    counts = "–".join(dict.fromkeys([str(min(clusters)), str(max(clusters))]))
    said = f"with {counts} video{'s' * (max(clusters) > 1)} an overall fall of less than {_unseen(overall)}"
    said += f", or of less than {_unseen(tasks)} on one task," if tasks else ""
    return [f"Green does not mean equal: {said} would often go through (80% power)."]


def _unseen(part: Sequence[Comparison]) -> str:
    return span([found.detectable for found in part])


def _sentence(found: Comparison) -> str:
    gap = found.difference
    return (
        f"{found.method} {found.budget}, {found.task}, on {found.benchmark} by {found.model}: "
        f"{short(found.base.mean)} → {short(found.new.mean)}, {bounds(gap, '+')}, "
        f"p {probability(found.p)}, {plural(gap.questions, 'question')} on {plural(gap.clusters, 'video')}"
    )


def _texts(found: Comparison) -> list[str]:
    return [
        found.method,
        found.budget,
        found.task,
        short(found.base.mean),
        short(found.new.mean),
        bounds(found.difference, "+"),
        half(found.retention),
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
