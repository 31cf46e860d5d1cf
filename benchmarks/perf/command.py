"""`kvpress-video bench`: the cost and the savings of compression on this machine."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ...cli.common import DONE, print_tables, progress_steps, quiet
from ...cli.parsers import Commands, add_command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvpress_video.benchmarks.perf.results.measurement import Figure
    from rich.table import Table

_NAMES = (
    "pass, stream, prefill, modes, decode, steps, answer, overhead, sweep, reading, frame or peers "
    "(default: all but modes, which takes half an hour on two cores, and peers, which needs kvpress)"
)


def add(commands: Commands) -> None:
    """Add the command."""
    bench = add_command(
        commands,
        "bench",
        help="measure the cost and the savings of compression on this machine",
        description="Measure the cost and the savings of compression on this machine, each figure against its baseline "
        "in the same run. Takes about ten minutes on two CPU cores.",
        examples=("", "stream decode --scale 7b --device cuda --out h200.json"),
    )
    bench.add_argument("names", nargs="*", metavar="NAME", help=_NAMES)
    bench.add_argument("--scale", help="tiny, laptop or 7b (default: 7b on a GPU, else laptop)")
    bench.add_argument("--device", help="device to run on (default: cuda if available, else cpu)")
    bench.add_argument("--out", type=Path, metavar="FILE", help="JSON file to write the results to, or to add them to")
    bench.set_defaults(run=_bench)


def _bench(options: argparse.Namespace) -> int:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler logs to stderr
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    quiet()
    from kvpress_video.benchmarks.perf import BENCHMARKS, DEFAULT, program
    from kvpress_video.benchmarks.perf.results.file import check, head_of, keep
    from kvpress_video.benchmarks.perf.setup.scales import bed

    from ...errors import unknown_name

    names = options.names or DEFAULT
    for name in names:
        if name not in BENCHMARKS:
            raise unknown_name("benchmark", name, BENCHMARKS)
    where = bed(options.scale, options.device)
    head = head_of(where)
    if options.out is not None:
        check(options.out, head)
    found: list[Figure] = []
    try:
        with progress_steps("measuring") as say:
            for done, name in enumerate(names):
                say(name, done, len(names))
                figures = []
                for figure in program(name)(where):
                    figures.append(figure)
                    say(f"{name}: {figure.case}", done, len(names))
                found += figures
                if options.out is not None:
                    keep(options.out, head, name, figures)
    finally:  # after a failure, print the figures measured so far
        print_tables(
            [_table(found)], [f"{head['device']}; {head['machine']}; {where.name}: {where.scale.what}"], fit=True
        )
    return DONE


def _table(figures: Sequence[Figure]) -> Table:
    from rich.table import Table

    table = Table("benchmark", "case", "figure")
    for column in ("goal", "measured", "floor"):
        table.add_column(column, justify="right")
    table.add_column("reached")
    for one in figures:
        floor = "" if one.floor is None else f"{one.floor:.3g} {one.unit}"
        reached = {None: "", True: "yes", False: "no"}[one.met]
        goal = "" if one.goal is None else f"{one.goal} {one.unit}"
        table.add_row(one.benchmark, one.case, one.what, goal, f"{one.measured:.3g} {one.unit}", floor, reached)
    return table
