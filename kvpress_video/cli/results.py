"""`kvpress-video results`: export the results of a sweep."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import DONE
from .parsers import Commands, add_command

if TYPE_CHECKING:
    from ..sweep.results.records import Failure

FILTERS = ("method", "budget", "task")


def add(commands: Commands) -> None:
    """Add the command."""
    results = add_command(
        commands,
        "results",
        help="export the results of a sweep as CSV, Parquet, JSON or Markdown",
        description="Export the results of a sweep: one record per question, or per cell and task with --summary.",
        examples=("sweep --out rows.parquet", "sweep --summary --format markdown --task overall"),
    )
    results.set_defaults(run=_results)
    results.add_argument("folder", type=Path, metavar="FOLDER", help="sweep output folder")
    results.add_argument(
        "--summary", action="store_true", help="export accuracies with intervals, comparisons and costs"
    )
    results.add_argument("--out", type=Path, metavar="FILE", help="file to write (default: print)")
    results.add_argument(
        "--format", metavar="FORMAT", help="csv, parquet, json, jsonl or markdown (default: by FILE's suffix, else csv)"
    )
    for name in FILTERS:
        results.add_argument(
            f"--{name}", action="append", default=[], metavar=name.upper(), help=f"export only this {name}; repeatable"
        )


def _results(options: argparse.Namespace) -> int:
    from rich.console import Console

    from ..sweep.results.export import check_output, encode, format_for, write
    from ..utils.formatting import plural

    format = format_for(options.out, options.format)
    if options.out is not None:
        check_output(options.out)
    with Console(stderr=True).status(f"Reading {options.folder}"):
        found, types, failures, status = _read(options)
        content = encode(found, format, types)
    if options.out is None:
        sys.stdout.write(content.decode())
    else:
        write(options.out, content)
        print(f"{plural(len(found), 'record')} in {options.out}", file=sys.stderr)
    if status:
        print(status, file=sys.stderr)
    for last in failures[-1:]:
        print(f"Failed on a clip: {len(failures)}; the last: {last.cell}, {last.clip}: {last.error}", file=sys.stderr)
    return DONE


def _read(options: argparse.Namespace) -> tuple[list[dict[str, Any]], Mapping[str, str] | None, list[Failure], str]:
    """Return the selected records, their column types, the failures of the sweep, and how much of it has run."""
    from ..errors import unknown_name
    from ..sweep.cells import Cell
    from ..sweep.results.records import ROW_TYPES
    from ..sweep.results.store import Store
    from ..sweep.results.stored_plan import unfinished

    with Store(options.folder) as store:
        rows, failures, plan = store.rows(), store.failures(), store.plan
    cells = [Cell(**cell) for cell in plan["cells"]]
    types: Mapping[str, str] | None
    if options.summary:
        from ..sweep.stats.summary import records, summarise

        found = records(summarise(rows, failures, cells))
        types = None
    else:
        found, types = [row.as_dict() for row in rows], ROW_TYPES
    known = {
        "method": {cell.name for cell in cells},
        "budget": {cell.budget for cell in cells},
        "task": {record["task"] for record in found},
    }
    for name in FILTERS:
        wanted = getattr(options, name)
        for value in wanted:
            if value not in known[name]:
                raise unknown_name(name, value, known[name])
        found = [record for record in found if not wanted or record[name] in wanted]
    return found, types, failures, unfinished(plan, [*rows, *failures])
