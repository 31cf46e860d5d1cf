"""An estimate in plain text: what was counted, what was measured, what follows from that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ...utils.formatting import format_bytes
from ..cells import Cell
from ..grid.spec import Grid
from ..results.store import FILE, Store
from .estimate import Estimate, Share, estimate

_PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")


def describe(grid: Grid, folder: str | Path, progress: Callable[[str], None] | None = None) -> str:
    """What a grid would come to, and how much of it the store in a folder holds already; see `estimate`.

    Raises:
        SweepError: there is a store, and it cannot be read.
        KVPressVideoError: as `estimate`.
    """
    finished: set[tuple[Cell, str]] = set()
    if (Path(folder) / FILE).exists():
        with Store(folder) as store:
            finished = store.finished()
    return text(estimate(grid, finished, progress))


def text(found: Estimate) -> str:
    """All of an estimate."""
    parts = [_cells(found), _counts(found), _measures(found), _costs(found), _caches(found), _notes(found)]
    return "\n\n".join(parts)


def _cells(found: Estimate) -> str:
    budgets: dict[str, list[str]] = {}
    for cell in found.grid.cells():
        budgets.setdefault(cell.method, [])
        if cell.budget not in budgets[cell.method]:
            budgets[cell.method].append(cell.budget)
    cells = sum(share.cells for share in found.shares)
    head = f"{cells:,} cells: at each model, benchmark and seed below"
    done = f"{found.done:,} of {found.jobs:,} cells × clips are done already."
    listed = _table([[method, ", ".join(each)] for method, each in budgets.items()], words=2, indent="  ")
    return "\n".join([head, listed, *([done] if found.done else [])])


def _counts(found: Estimate) -> str:
    def row(share: Share) -> list[str]:
        numbers = (share.cells, share.clips, share.questions, share.answers, share.prefills, share.alone)
        return [share.model, share.benchmark, str(share.seed), *(f"{number:,}" for number in numbers)]

    header = ["model", "benchmark", "seed", "cells", "clips", "questions", "answers", "prefills", "without sharing"]
    rows = [header, *(row(share) for share in found.shares)]
    if len(found.shares) > 1:
        sums = [sum(getattr(share, name) for share in found.shares) for name in ("answers", "prefills", "alone")]
        rows.append(["total", *[""] * 5, *(f"{number:,}" for number in sums)])
    return "Counted\n" + _table(rows, words=2)


def _measures(found: Estimate) -> str:
    header = ["model", "benchmark", "video frames", "visual tokens", "other tokens"]
    rows = [
        [*names, *(f"{number:,}" for number in (size.frames, size.visual, size.text))]
        for names, size in found.prompts.items()
    ]
    return "Measured on one clip of each benchmark, with each model's processor\n" + _table([header, *rows], words=2)


def _costs(found: Estimate) -> str:
    header = ["model", "benchmark", "parameters", "prefill FLOPs", "without sharing"]
    rows = []
    for model, benchmark in found.prompts:
        mine = [share for share in found.shares if (share.model, share.benchmark) == (model, benchmark)]
        operations = (sum(share.flops for share in mine), sum(share.flops_alone for share in mine))
        rows.append([model, benchmark, _scaled(found.models[model].parameters), *map(_scaled, operations)])
    title = "Estimated, of the text model: its configuration was read, not its weights\n"
    return title + _table([header, *rows], words=2)


def _caches(found: Estimate) -> str:
    budgets = list(dict.fromkeys(budget for caches in found.caches.values() for budget in caches))
    rows = [["model", "benchmark", "stock", *budgets]]
    for names, caches in found.caches.items():
        rows.append(
            [*names, *(format_bytes(number) for number in (found.stock[names], *(caches[each] for each in budgets)))]
        )
    return "Estimated cache of one question after the prefill, by budget, metadata included\n" + _table(rows, words=2)


def _notes(found: Estimate) -> str:
    batch, most = found.grid.setup.batch, sum(share.answers * share.max_new_tokens for share in found.shares)
    shared = f"Each prefill that cells share holds up to {format_bytes(max(found.stock.values()))} more."
    lines = [
        f"Up to {batch} questions are answered at once: their caches hold at most {format_bytes(found.largest)}.",
        shared if found.shares_any else "",
        "A prefill ends with the last visual token. On top come the vision tower, reading the questions, and writing "
        f"the answers: at most {most:,} tokens.",
    ]
    return "\n".join(filter(None, lines))


def _table(rows: Sequence[Sequence[str]], words: int, indent: str = "") -> str:
    """Rows in columns, the first ones to the left, all others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        indent
        + "  ".join(
            each.ljust(width) if place < words else each.rjust(width)
            for place, (each, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _scaled(number: float) -> str:
    place = 0
    while number >= 1000 and place < len(_PREFIXES) - 1:
        number, place = number / 1000, place + 1
    return f"{number:.3g} {_PREFIXES[place]}".rstrip()
