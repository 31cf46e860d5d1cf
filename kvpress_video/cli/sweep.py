"""`kvpress-video sweep`: run a grid of cells and summarise it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..budget import UNCOMPRESSED
from .common import (
    CELLS_FAILED,
    DONE,
    print_tables,
    probability,
    progress,
    progress_steps,
    quiet,
    terminal_width,
    whole_number,
)
from .interrupts import INTERRUPTED
from .names import check_benchmarks, check_methods, check_models
from .parsers import Commands, add_command, wide_option

if TYPE_CHECKING:
    from ..sweep.grid.spec import Grid
    from ..sweep.run.sweep import SweepResult

SUMMARY, TABLE = "summary.csv", "table.md"
TABLE_METHODS = (
    "full,random,uniform,recent,sink-window,key-norm,snapkv,tar,van,infinipot-v,standby,novelty,standby-novelty,"
    "average-pooling,memory-bank,streammem,hermes,detachable"
)
TABLE_BUDGETS = "50%,25%,12.5%,6.25%"
PARTS = ("models", "benchmarks", "methods", "budgets", "seeds", "quantize", "stage", "prefill", "positions", "labels",
         "experts", "device", "batch", "max_new_tokens", "reuse")  # fmt: skip


def add(commands: Commands) -> None:
    """Add the command."""
    sweep = add_command(
        commands,
        "sweep",
        help="run a grid of models × benchmarks × methods × budgets × seeds, and tabulate accuracies with intervals",
        description="Run a grid from a YAML file or from flags, which override the file. Defaults are in parentheses; "
        "with a file, methods and budgets have no defaults.",
        examples=(
            "--methods full,tar,recent --budgets 25%,6.25% --out mine",
            "grid.yaml --dry-run",
            "grid.yaml --out mine --resume",
        ),
    )
    sweep.set_defaults(run=_sweep)
    sweep.add_argument("grid", type=Path, nargs="?", metavar="GRID.yaml", help="grid to run; flags override it")
    grid = sweep.add_argument_group("grid")
    grid.add_argument("--models", help="bundled, folders or hub names: a,b:dtype=bfloat16,… (bundled)")
    grid.add_argument("--benchmarks", help="a,b:option=value,… (world: 48 clips of 32 frames, two cameras)")
    grid.add_argument("--methods", help="a,b:setting=1,… (18 methods, those of make demo)")
    grid.add_argument("--budgets", help=f"ratios, visual entries or bytes ({TABLE_BUDGETS.replace('%', '%%')})")
    grid.add_argument("--seeds", help="seeds of the benchmarks' sampling: 0,1,2 (0)")
    grid.add_argument("--quantize", help="bits of cached keys and values: none,8,4,2 (none)")
    grid.add_argument("--stage", help="cache or input (cache)")
    grid.add_argument("--prefill", help="auto, chunked, split or whole (auto)")
    grid.add_argument("--positions", help="keep or compact (keep)")
    grid.add_argument("--labels", help="the text of frames: spread, keep or drop (spread)")
    grid.add_argument("--experts", type=int, metavar="N", help="experts of a mixture that process a visual token (all)")
    grid.add_argument("--device", help="device of the models (cuda if available, else cpu)")
    grid.add_argument("--batch", type=int, metavar="N", help="questions about a clip to answer together (8)")
    grid.add_argument("--max-new-tokens", type=int, metavar="N", help="maximum length of an answer (the benchmark's)")
    grid.add_argument(
        "--no-reuse", dest="reuse", action="store_const", const=False, help="prefill every clip again in every cell"
    )
    run = sweep.add_argument_group("run")
    run.add_argument(
        "--out", type=Path, default=Path("sweep"), metavar="DIR", help="output folder (default: %(default)s)"
    )
    run.add_argument(
        "--resume", action="store_true", help="complete the sweep in the output folder; cells may be added"
    )
    run.add_argument(
        "--dry-run", action="store_true", help="count cells, clips and prefills, estimate cache sizes, run nothing"
    )
    wide_option(run, "tasks, paired differences, entries and bytes")
    run.add_argument("--executor", default="local", help="local, for processes, or ray (default: %(default)s)")
    run.add_argument("--workers", type=int, metavar="N", help="workers at a time (default: one per GPU, or 2 on a CPU)")
    run.add_argument("--address", help="address of a running Ray cluster")
    run.add_argument(
        "--overlay-clips",
        type=whole_number(0),
        default=1,
        metavar="N",
        help="clips per group with retained patches drawn in the report (default: %(default)s)",
    )
    run.add_argument(
        "--power",
        type=probability,
        metavar="DIFFERENCE",
        help="estimate the number of videos needed to detect a difference of this size from --against, such as 0.05, "
        "from the answers in "
        "the output folder, or from a pilot if it holds no sweep",
    )
    run.add_argument(
        "--pilot",
        type=whole_number(2),
        metavar="N",
        default=8,
        help="clips per group in a pilot (default: %(default)s)",
    )
    run.add_argument(
        "--against",
        default=UNCOMPRESSED,
        metavar="METHOD",
        help="method to compare the others with (default: %(default)s)",
    )


def _sweep(options: argparse.Namespace) -> int:
    check_methods(options.methods)
    check_benchmarks(options.benchmarks)
    check_models(options.models)
    quiet()
    grid = _grid(options)
    from ..errors import unknown_name

    if options.against not in (UNCOMPRESSED, *grid.methods):
        raise unknown_name("method to compare with", options.against, grid.methods)
    if options.dry_run:
        from rich.console import Console

        from ..sweep.dry_run.text import describe

        with Console(stderr=True).status("reading") as status:
            text = describe(grid, options.out, status.update)
        print(text)
        if options.power is not None:
            _foresee_power(options)
        return DONE
    if options.power is not None:
        return _power(grid, options)
    swept = _run(grid, options)
    _summarise(swept, options, grid.setup.device)
    print(f"{swept.done} of {swept.jobs} cells × clips; sweep.sqlite, report.html, table.md and summary.csv are in "
          f"{swept.folder}")  # fmt: skip
    if swept.interrupted:
        print("Interrupted: the same command with --resume completes the sweep.")
        return INTERRUPTED
    return CELLS_FAILED if swept.failures else DONE


def _grid(options: argparse.Namespace) -> Grid:
    from ..sweep.grid.flags import flag_parts, grid_of_flags
    from ..sweep.grid.yaml_file import read_grid

    flags = flag_parts(**{name: getattr(options, name) for name in PARTS})
    if options.grid is not None:
        return read_grid(options.grid, **flags)
    return grid_of_flags({**flag_parts(methods=TABLE_METHODS, budgets=TABLE_BUDGETS), **flags})


def _power(grid: Grid, options: argparse.Namespace) -> int:
    """Print how many videos a difference needs, after a pilot if the folder holds no sweep."""
    if options.resume or not _has_store(options):
        swept = _run(grid, options, options.pilot)
        if swept.interrupted:
            print("Interrupted: the same command with --resume completes the pilot.")
            return INTERRUPTED
    _print_power(options)
    return DONE


def _foresee_power(options: argparse.Namespace) -> None:
    if _has_store(options):
        _print_power(options)
    else:
        print(f"\nFor --power a pilot of {options.pilot} clips per group would run first.")


def _has_store(options: argparse.Namespace) -> bool:
    from ..sweep.results.store import FILE

    return bool((options.out / FILE).exists())


def _print_power(options: argparse.Namespace) -> None:
    from ..report.findings import Findings
    from ..sweep.stats.power import power_notes, power_tables, videos_needed

    found = videos_needed(Findings.read(options.out, options.against).summary, options.power)
    print_tables(power_tables(found), power_notes(found, options.power))


def _run(grid: Grid, options: argparse.Namespace, pilot: int | None = None) -> SweepResult:
    from ..models.devices import check_device
    from ..report.page import FILE
    from ..sweep.results.export import check_output
    from ..sweep.run.sweep import run_sweep

    if options.executor == "local" and grid.setup.device is not None:
        check_device(grid.setup.device)
    for name in (FILE, TABLE, SUMMARY):
        check_output(options.out / name)
    with progress() as bar:
        first = "preparing clips and models"
        task = bar.add_task(first, total=None)
        if not bar.console.is_terminal:
            print(first, file=sys.stderr)

        def show(done: int, total: int, cell: str) -> None:
            bar.update(task, completed=done, total=total, description=cell)
            if not bar.console.is_terminal and (done == 1 or done * 10 // total > (done - 1) * 10 // total):
                print(f"{done} of {total} cells × clips done", file=sys.stderr)

        how: dict[str, Any] = {name: getattr(options, name) for name in ("resume", "executor", "workers", "address")}
        return run_sweep(grid, options.out, pilot=pilot, progress=show, **how)


def _summarise(swept: SweepResult, options: argparse.Namespace, device: str | None) -> None:
    """Print the tables, and write them and the report to the sweep's folder."""
    from ..report.findings import Findings
    from ..sweep.results.export import encode, write
    from ..sweep.stats.overview import overview, overview_notes
    from ..sweep.stats.summary import records
    from ..sweep.stats.text import markdown, notes, tables

    title = "Sweep (interrupted)" if swept.interrupted else "Sweep"
    with progress_steps("comparing") as update:
        findings = Findings.read(swept.folder, options.against)
        write(swept.folder / SUMMARY, encode(records(findings.summary), "csv"))
        write(swept.folder / TABLE, markdown(findings.summary, title, findings.status).encode())
        overlays = 0 if swept.interrupted else options.overlay_clips
        findings.write_page(title=title, overlay_clips=overlays, device=device, progress=update)
    if options.wide:
        print_tables(tables(findings.summary), notes(findings.summary))
    else:
        print_tables(overview(findings.summary, terminal_width()), overview_notes(findings.summary))
