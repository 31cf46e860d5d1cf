"""Tables of a sweep: rich for the terminal, Markdown for files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from ..formatting import half, markdown_table, plural, span
from .inference import detectable
from .pairing import levels
from .summary import OVERALL, SummaryRow

UNSEEN = 0.05
"""Where differences larger than this could go unseen, that is said."""
_TEXTS = 2
"""Columns of words; all others are numbers."""


def tables(lines: Sequence[SummaryRow]) -> list[Table]:
    """A rich table per model, benchmark and group of clips."""
    made = []
    for part in _parts(lines):
        table = Table(
            title=escape(_caption(part)), title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False
        )
        header, *body = _cells(part)
        for place, name in enumerate(header):
            table.add_column(escape(name), justify="left" if place < _TEXTS else "right", no_wrap=True)
        for line, texts in zip(part, body, strict=True):
            table.add_row(*map(escape, texts), style=None if line.error is None else "red")
        made.append(table)
    return made


def markdown(lines: Sequence[SummaryRow], title: str) -> str:
    """The tables and notes as Markdown."""
    parts = [f"# {title}"]
    for part in _parts(lines):
        parts += [f"## {_caption(part)}", markdown_table(_cells(part), _TEXTS)]
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in notes(lines))]) + "\n"


def notes(lines: Sequence[SummaryRow]) -> list[str]:
    """What has to be said under the tables: what figures mean, what they cannot show, what failed and why."""
    return [
        "Every video is compressed before its questions are read.",
        "±: half the 95% interval, by video. of full: accuracy relative to the full cache; vs: difference; both "
        "paired on the same questions. Entries: visual, per layer and KV head.",
        *_averages(lines),
        *_power(lines),
        *_unscored(lines),
        *_failures(lines),
    ]


def _parts(lines: Sequence[SummaryRow]) -> list[list[SummaryRow]]:
    parts: dict[tuple[str, str, str], list[SummaryRow]] = {}
    for line in lines:
        parts.setdefault((line.model, line.benchmark, line.group), []).append(line)
    return list(parts.values())


def _name(line: SummaryRow) -> str:
    return ", ".join(filter(None, (line.model, line.benchmark, line.group)))


def _caption(part: Sequence[SummaryRow]) -> str:
    clips, questions = max(line.clips for line in part), max(line.questions for line in part)
    counts = f"{plural(clips, 'clip')}, {plural(questions, 'question')}" if clips else "no clip finished"
    return f"{_name(part[0])}: {counts}"


def _cells(part: Sequence[SummaryRow]) -> list[list[str]]:
    """The header and one row per line."""
    tasks = list(dict.fromkeys(task for line in part for task in line.accuracies if task != OVERALL))
    tasks = tasks if len(tasks) > 1 else []
    header = ["method", "budget", *tasks, OVERALL, "of full", f"vs {part[0].against}", "entries", "held", "KiB"]
    return [header, *(_texts(line, tasks, len(header)) for line in part)]


def _texts(line: SummaryRow, tasks: Sequence[str], width: int) -> list[str]:
    names = [line.method + ("*" if line.error and line.clips else ""), line.budget]
    if not line.clips:
        return [*names, "failed" if line.error else "not run", *[""] * (width - 3)]
    return [
        *names,
        *(half(line.accuracies.get(task)) for task in [*tasks, OVERALL]),
        half(line.retention),
        half(line.difference, "+"),
        f"{line.entries:.0f}",
        f"{line.ratio:.1%}",
        f"{line.bytes / 1024:.0f}",
    ]


def _averages(lines: Iterable[SummaryRow]) -> list[str]:
    said = []
    for benchmark in dict.fromkeys(line.benchmark for line in lines):
        if within := levels(benchmark):
            said.append(f"{benchmark}: overall is the mean of the means by {', then by '.join(reversed(within))}.")
    return said


def _power(lines: Sequence[SummaryRow]) -> list[str]:
    said = []
    for part in _parts(lines):
        gaps = [line.difference for line in part if line.difference]
        unseen = [detectable(gap) for gap in gaps]
        if unseen and max(unseen) > UNSEEN:
            fewest, most = min(gap.clusters for gap in gaps), max(gap.clusters for gap in gaps)
            clips = plural(most, "video") if fewest == most else f"{fewest} to {plural(most, 'video')}"
            said.append(
                f"{_name(part[0])}: with {clips} a difference to {part[0].against} of less than {span(unseen)}, by "
                "method, would often not be seen (80% power)."
            )
    return said


def _unscored(lines: Sequence[SummaryRow]) -> list[str]:
    return [
        f"{_name(part[0])}: {plural(count, 'answer')} of {sum(line.questions for line in part)} only a judge can "
        "score; no accuracy counts them."
        for part in _parts(lines)
        if (count := sum(line.unscored for line in part))
    ]


def _failures(lines: Sequence[SummaryRow]) -> list[str]:
    return [
        f"{line.method} {line.budget}{'*' if line.clips else ''} ({_name(line)}) failed"
        f"{f' on some clips, figures are of the other {line.clips}' if line.clips else ''}: {line.error}"
        for line in lines
        if line.error is not None
    ]
