"""A summary as tables of method × budget, narrow enough for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ...budget import UNCOMPRESSED_BUDGET
from ..formatting import interval
from .summary import OVERALL, SummaryRow
from .text import caption, general_notes, parts, problems

_GAP = 2
"""Columns between two cells."""


def overview(summary: Sequence[SummaryRow], width: int) -> list[RenderableType]:
    """Build tables of accuracies per model, benchmark and group: methods in rows, budgets in columns.

    Budgets that do not fit side by side are split over several tables.

    Args:
        summary: summary of a sweep.
        width: columns of the terminal.
    """
    return [shown for part in parts(summary) for shown in _tables(part, width)]


def overview_notes(summary: Sequence[SummaryRow]) -> list[str]:
    """List the notes below the tables: definitions, minimum detectable differences, failures."""
    return [
        *general_notes(summary),
        "Accuracy over all questions [95% interval, clustered by video]. --wide adds tasks, paired differences, "
        "entries and bytes.",
        *problems(summary),
    ]


def _tables(part: Sequence[SummaryRow], width: int) -> Iterator[RenderableType]:
    compressed = [row for row in part if row.budget != UNCOMPRESSED_BUDGET] or list(part)
    budgets = list(dict.fromkeys(row.budget for row in compressed))
    methods = list(dict.fromkeys(row.method for row in compressed))
    cells = {(row.method, row.budget): row for row in compressed}
    whole = [f"{row.method} {_text(row)}" for row in part if row not in compressed]
    names = max(map(cell_len, [*methods, "method"]))
    widest = max(cell_len(text) for text in [*budgets, *map(_text, compressed)]) + _GAP
    columns = max(1, (width - names) // widest)
    columns = ceil(len(budgets) / ceil(len(budgets) / columns))
    yield Text(caption(part), style="bold")
    yield from map(Text, whole)
    for first in range(0, len(budgets), columns):
        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
        table.add_column("method", no_wrap=True)
        shown = budgets[first : first + columns]
        for budget in shown:
            table.add_column(escape(budget), justify="right", no_wrap=True)
        for method in methods:
            found = [cells.get((method, budget)) for budget in shown]
            failed = any(row is not None and row.error is not None for row in found)
            table.add_row(escape(method), *(escape(_text(row)) for row in found), style="red" if failed else None)
        yield table
        yield ""


def _text(row: SummaryRow | None) -> str:
    if row is None:
        return ""
    if not row.clips:
        return "failed" if row.error else "not run"
    return interval(row.accuracies.get(OVERALL)) + ("*" if row.error else "")
