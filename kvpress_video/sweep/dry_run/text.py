"""An estimate as plain text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ...utils.formatting import format_bytes, plural
from ..cells import Cell
from ..grid.spec import Grid
from ..results.store import FILE, Store
from .estimate import Estimate, Workload, estimate


def describe(grid: Grid, folder: str | Path, progress: Callable[[str], None] | None = None) -> str:
    """Describe the size of a sweep, and how much of it the store in a folder already holds.

    Args:
        grid: grid of the sweep.
        folder: output folder of the sweep.
        progress: as in `estimate`.

    Raises:
        SweepError: there is a store, and it cannot be read.
        KVPressVideoError: as in `estimate`.
    """
    finished: set[tuple[Cell, str]] = set()
    if (Path(folder) / FILE).exists():
        with Store(folder) as store:
            finished = store.finished()
    return text(estimate(grid, finished, progress))


def text(found: Estimate) -> str:
    """Write an estimate: cells, those that will fail, counts, token counts, cache sizes, notes, and missing parts."""
    parts = [_counts(found), _prompts(found), _caches(found), _notes(found)] if found.workloads else []
    absent = [f"Not counted: {name}: {why}" for name, why in found.absent.items()]
    failing = [_failing(found)] if found.failing else []
    return "\n\n".join([_cells(found), *failing, *parts, *absent])


def _cells(found: Estimate) -> str:
    budgets: dict[str, list[str]] = {}
    for cell in found.grid.cells():
        budgets.setdefault(cell.name, [])
        if cell.budget not in budgets[cell.name]:
            budgets[cell.name].append(cell.budget)
    head = f"{len(found.grid.cells()):,} cells: at each model, benchmark and seed below"
    done = f"{found.done:,} of {found.jobs:,} cells × clips are done already."
    listed = _table([[method, ", ".join(each)] for method, each in budgets.items()], left=2, indent="  ")
    return "\n".join([head, listed, *([done] if found.done else [])])


def _failing(found: Estimate) -> str:
    budgets: dict[tuple[str, str, str, str], dict[str, None]] = {}
    for cell, why in found.failing.items():
        budgets.setdefault((cell.name, cell.model, cell.benchmark, why), {})[cell.budget] = None
    head = f"{plural(len(found.failing), 'cell')} will fail, not counted below:"
    lines = [
        f"  {name} at {', '.join(each)} ({model}, {benchmark}): {why}"
        for (name, model, benchmark, why), each in budgets.items()
    ]
    return "\n".join([head, *lines])


def _counts(found: Estimate) -> str:
    def row(load: Workload) -> list[str]:
        numbers = (load.cells, load.clips, load.questions, load.answers, load.prefills, load.unshared_prefills)
        return [load.model, load.benchmark, str(load.seed), *(f"{number:,}" for number in numbers)]

    header = ["model", "benchmark", "seed", "cells", "clips", "questions", "answers", "prefills", "without sharing"]
    rows = [header, *(row(workload) for workload in found.workloads)]
    if len(found.workloads) > 1:
        names = ("answers", "prefills", "unshared_prefills")
        sums = [sum(getattr(workload, name) for workload in found.workloads) for name in names]
        rows.append(["total", *[""] * 5, *(f"{number:,}" for number in sums)])
    return "Counted\n" + _table(rows, left=2)


def _prompts(found: Estimate) -> str:
    header = ["model", "benchmark", "video frames", "visual tokens", "other tokens"]
    rows = [
        [*names, *(f"{number:,}" for number in (size.frames, size.visual, size.text))]
        for names, size in found.prompts.items()
    ]
    return "Measured on one clip of each benchmark, with each model's processor\n" + _table([header, *rows], left=2)


def _caches(found: Estimate) -> str:
    budgets = list(dict.fromkeys(budget for caches in found.caches.values() for budget in caches))
    rows = [["model", "benchmark", "stock", *budgets]]
    for names, caches in found.caches.items():
        sizes = (format_bytes(caches[budget]) if budget in caches else "-" for budget in budgets)
        rows.append([*names, format_bytes(found.stock[names]), *sizes])
    return "Estimated cache of one question after the prefill, by budget, metadata included\n" + _table(rows, left=2)


def _notes(found: Estimate) -> str:
    tokens = sum(workload.answers * workload.max_new_tokens for workload in found.workloads)
    lines = [
        f"Up to {found.grid.setup.batch} questions are answered at once: their caches hold at most "
        f"{format_bytes(found.largest_batch)}.",
        f"Each prefill that cells share holds up to {format_bytes(max(found.stock.values()))} more."
        if found.shares_prefills
        else "",
        "A prefill covers the prompt up to its last visual token; questions and answers follow, with at most "
        f"{tokens:,} generated tokens.",
    ]
    return "\n".join(filter(None, lines))


def _table(rows: Sequence[Sequence[str]], left: int, indent: str = "") -> str:
    """Align rows in columns, the first `left` of them to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        indent
        + "  ".join(
            each.ljust(width) if place < left else each.rjust(width)
            for place, (each, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
