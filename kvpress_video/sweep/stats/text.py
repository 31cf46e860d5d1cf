"""Tables of a summary: rich for the terminal, Markdown for files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from ...budget import UNCOMPRESSED
from ...utils.formatting import plural
from ..formatting import interval, markdown_table, span
from .inference import detectable
from .pairing import levels
from .summary import OVERALL, SummaryRow

_TEXT_COLUMNS = 2
"""Leading columns with text; all others hold numbers."""


def tables(summary: Sequence[SummaryRow]) -> list[Table]:
    """Build a rich table per model, benchmark and group of clips."""
    made = []
    for part in parts(summary):
        table = Table(
            title=escape(caption(part)), title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False
        )
        header, *body = _cells(part)
        for place, name in enumerate(header):
            table.add_column(escape(name), justify="left" if place < _TEXT_COLUMNS else "right", no_wrap=True)
        for row, texts in zip(part, body, strict=True):
            table.add_row(*map(escape, texts), style=None if row.error is None else "red")
        made.append(table)
    return made


def markdown(summary: Sequence[SummaryRow], title: str, status: str = "") -> str:
    """Write the tables and notes as Markdown.

    Args:
        summary: summary of a sweep.
        title: first heading.
        status: sentence below it, such as how much of the sweep has run.
    """
    written = [f"# {title}", *([status] if status else [])]
    for part in parts(summary):
        written += [f"## {caption(part)}", markdown_table(_cells(part), _TEXT_COLUMNS)]
    return "\n\n".join([*written, "\n".join(f"- {note}" for note in notes(summary))]) + "\n"


def notes(summary: Sequence[SummaryRow]) -> list[str]:
    """List the notes below the tables: definitions, minimum detectable differences, failures."""
    columns = {
        "of full: accuracy relative to the full cache": any(row.retention for row in summary),
        "vs: difference of accuracies": any(row.difference for row in summary),
    }
    if shown := [column for column, filled in columns.items() if filled]:
        shown = ["; ".join([*shown, "paired on the same questions."])]
    intervals = "[low, high]: 95% interval, clustered by video."
    entries = "Entries: visual, per layer and KV head."
    return [*general_notes(summary), " ".join([intervals, *shown, entries]), *problems(summary)]


def general_notes(summary: Sequence[SummaryRow]) -> list[str]:
    """State how the questions were asked, and how their accuracies were averaged."""
    return ["Every video is compressed before its questions are read.", *_averages(summary)]


def problems(summary: Sequence[SummaryRow]) -> list[str]:
    """List minimum detectable differences, missing comparisons, unscored answers and failures."""
    return [*_power(summary), *uncompared(summary), *_unscored(summary), *_failures(summary)]


def uncompared(summary: Sequence[SummaryRow]) -> list[str]:
    """List the references that share no question with any method: the full cache, and the method compared with."""
    return [
        f"{part[0].place}: no comparison with {reference}, which was not run on these questions."
        for part in parts(summary)
        for reference, compared in {
            UNCOMPRESSED: any(row.retention for row in part),
            part[0].against: any(row.difference for row in part),
        }.items()
        if not compared and any(row.accuracies and row.method != reference for row in part)
    ]


def parts(summary: Sequence[SummaryRow]) -> list[list[SummaryRow]]:
    """Split a summary by model, benchmark and group of clips."""
    found: dict[tuple[str, str, str], list[SummaryRow]] = {}
    for row in summary:
        found.setdefault((row.model, row.benchmark, row.group), []).append(row)
    return list(found.values())


def caption(part: Sequence[SummaryRow]) -> str:
    """Name a part, and count its clips and questions."""
    clips, questions = max(row.clips for row in part), max(row.questions for row in part)
    counts = f"{plural(clips, 'clip')}, {plural(questions, 'question')}" if clips else "no clip finished"
    return f"{part[0].place}: {counts}"


def _cells(part: Sequence[SummaryRow]) -> list[list[str]]:
    """Return the header and the body of a table."""
    tasks = list(dict.fromkeys(task for row in part for task in row.accuracies if task != OVERALL))
    tasks = tasks if len(tasks) > 1 else []
    comparisons: dict[str, Callable[[SummaryRow], str]] = {}
    if any(row.retention for row in part):
        comparisons["of full"] = lambda row: interval(row.retention)
    if any(row.difference for row in part):
        comparisons[f"vs {part[0].against}"] = lambda row: interval(row.difference, "+")
    header = ["method", "budget", *tasks, OVERALL, *comparisons, "entries", "held", "KiB"]
    return [header, *(_texts(row, tasks, [*comparisons.values()], len(header)) for row in part)]


def _texts(
    row: SummaryRow, tasks: Sequence[str], comparisons: Sequence[Callable[[SummaryRow], str]], width: int
) -> list[str]:
    names = [row.method + ("*" if row.error and row.clips else ""), row.budget]
    if not row.clips:
        return [*names, "failed" if row.error else "not run", *[""] * (width - 3)]
    return [
        *names,
        *(interval(row.accuracies.get(task)) for task in [*tasks, OVERALL]),
        *(comparison(row) for comparison in comparisons),
        f"{row.entries:.0f}",
        f"{row.ratio:.1%}",
        f"{row.bytes / 1024:.0f}",
    ]


def _averages(summary: Iterable[SummaryRow]) -> list[str]:
    found = []
    for benchmark in dict.fromkeys(row.benchmark for row in summary):
        if nested := levels(benchmark):
            found.append(f"{benchmark}: overall is the mean of the means by {', then by '.join(reversed(nested))}.")
    return found


def _power(summary: Sequence[SummaryRow]) -> list[str]:
    found = []
    for part in parts(summary):
        gaps = [row.difference for row in part if row.difference]
        smallest = [detectable(gap) for gap in gaps]
        if gaps:
            fewest, most = min(gap.clusters for gap in gaps), max(gap.clusters for gap in gaps)
            videos = plural(most, "video") if fewest == most else f"{fewest} to {plural(most, 'video')}"
            found.append(
                f"{part[0].place}: with {videos}, differences from {part[0].against} of {span(smallest)} or more (by "
                "method) are found with 80% power; --power counts the videos that a smaller one needs."
            )
    return found


def _unscored(summary: Sequence[SummaryRow]) -> list[str]:
    return [
        f"{part[0].place}: {count} of {plural(sum(row.questions for row in part), 'answer')} need a judge and are not "
        "counted."
        for part in parts(summary)
        if (count := sum(row.unscored for row in part))
    ]


def _failures(summary: Sequence[SummaryRow]) -> list[str]:
    return [
        f"{row.method} {row.budget}{'*' if row.clips else ''} ({row.place}) failed"
        f"{f' on some clips (figures are from the other {row.clips})' if row.clips else ''}: {row.error}"
        for row in summary
        if row.error is not None
    ]
