"""`kvpress-video concordance`: compare published orderings with those on an installed benchmark."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...cli.common import CELLS_FAILED, DONE, progress_steps, quiet, whole_number
from ...cli.interrupts import INTERRUPTED
from ...cli.parsers import Commands, add_command

FILE = "concordance.md"


def add(commands: Commands) -> None:
    """Add the command."""
    concordance = add_command(
        commands,
        "concordance",
        help="compare orderings of methods published in papers with those on a benchmark",
        description="Run the methods of published orderings, and report for each ordering whether the benchmark "
        "agrees.",
        examples=("--benchmark world --budgets 25%,12.5%",),
    )
    concordance.set_defaults(run=_concordance)
    concordance.add_argument("--benchmark", default="world", help="name:option=value,… (default: %(default)s)")
    concordance.add_argument("--present", default="place", metavar="TASK", help="task about the present (place)")
    concordance.add_argument("--model", default="bundled", help="bundled, a folder or a hub name (bundled)")
    concordance.add_argument("--budgets", default="25%,12.5%", help="ratios, pooled (25%%,12.5%%)")
    concordance.add_argument(
        "--seed", type=whole_number(0), default=0, help="seed of the benchmark's clips (default: 0)"
    )
    concordance.add_argument(
        "--sources", default="", help="papers to include, as in the table: HERMES,… (default: all)"
    )
    concordance.add_argument(
        "--held-back", action="store_true", help="include the orderings held back while a benchmark is designed"
    )
    concordance.add_argument("--out", type=Path, default=Path("concordance"), metavar="DIR", help="output folder")
    concordance.add_argument("--resume", action="store_true", help="complete the sweep in the output folder")
    concordance.add_argument("--device", help="device of the model (default: cuda if available, else cpu)")
    concordance.add_argument("--workers", type=int, metavar="N", help="as in a sweep")


def _concordance(options: argparse.Namespace) -> int:
    quiet()
    from ...budget import Budget
    from ...errors import BudgetError, unknown_name
    from ...sweep.grid.flags import grid_of_flags
    from ...sweep.results.store import Store
    from ...sweep.run.sweep import run_sweep
    from .orderings import ORDERINGS, SOURCES
    from .verdicts import judge, table, totals

    wanted = [part.strip() for part in options.sources.split(",") if part.strip()]
    for source in wanted:
        if source not in SOURCES:
            raise unknown_name("source of orderings", source, SOURCES)
    orderings = [
        each
        for each in ORDERINGS
        if (options.held_back or not each.held_back) and (not wanted or each.source in wanted)
    ]
    asked = [Budget.parse(text.strip()) for text in options.budgets.split(",")]
    if any(budget.unit != "ratio" for budget in asked):
        raise BudgetError(f"A concordance needs ratios, since some orderings scale them, got {options.budgets!r}.")
    ratios = [round(float(budget.amount), 9) for budget in asked]
    scales = sorted({each.fraction for each in orderings} | {1.0})
    parts = {
        "methods": list(dict.fromkeys(name for each in orderings for name in (each.better, each.worse))),
        "budgets": list(dict.fromkeys(round(ratio * scale, 9) for scale in scales for ratio in ratios)),
        "models": [options.model],
        "benchmarks": [options.benchmark],
        "seeds": [options.seed],
        "device": options.device,
    }
    grid = grid_of_flags(parts, models="--model", benchmarks="--benchmark", seeds="--seed")
    with progress_steps("preparing clips and models") as update:
        swept = run_sweep(
            grid,
            options.out,
            resume=options.resume,
            workers=options.workers,
            progress=lambda done, total, cell: update(cell, done, total),
        )
    with Store(swept.folder) as store:
        verdicts = judge(store.rows(), orderings, ratios, options.present)
    page = "\n\n".join([table(verdicts), "\n".join(f"- {line}" for line in totals(verdicts))]) + "\n"
    (swept.folder / FILE).write_text(page)
    print(page)
    if swept.interrupted:
        print("Interrupted: the same command with --resume completes it.")
        return INTERRUPTED
    return CELLS_FAILED if swept.failures else DONE
