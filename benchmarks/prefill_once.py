"""What sharing prefills saves: one grid, run with and without it in one process.

`python -m kvpress_video.benchmarks.prefill_once --out benchmarks/results/prefill-once.json`
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from kvpress_video.benchmarks.provenance import provenance, write_result

from kvpress_video.sweep.grid import Grid, flag_parts, make_grid
from kvpress_video.sweep.rows import Row
from kvpress_video.sweep.store import Store
from kvpress_video.sweep.sweep import run_sweep

METHODS = "random,recent,key-norm,snapkv,tar,van,infinipot-v,standby,novelty,standby-novelty"
BUDGETS = "50%,25%,12.5%,10%,6.25%,5%"


def run(grid: Grid, folder: Path) -> tuple[list[Row], float]:
    """Every row of a grid, run in this process, and the seconds it took."""
    started = time.perf_counter()
    run_sweep(grid, folder, workers=1)
    seconds = time.perf_counter() - started
    with Store(folder) as store:
        return store.rows(), seconds


def costs(rows: list[Row], seconds: float) -> dict[str, float]:
    """Seconds of a whole run, by what they were spent on; clips that were read and scored are in `all`."""
    measured = {(row.cell, row.clip): row.measured for row in rows}.values()
    return {
        "prefill_seconds": sum(one.prefill_seconds for one in measured),
        "compress_seconds": sum(one.compress_seconds for one in measured),
        "answer_seconds": sum(one.answer_seconds for one in measured),
        "all": seconds,
    }


def answers(rows: list[Row]) -> dict[Any, tuple[Any, ...]]:
    """What each question was answered with, and what the cache held."""
    return {
        (row.cell, row.clip, row.answered.question): (row.answered.answer, row.measured.entries, row.measured.bytes)
        for row in rows
    }


def main() -> None:
    """Run the grid both ways, one after the other, and write what each cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--clips", type=int, default=8, help="(default: %(default)s)")
    parser.add_argument("--frames", type=int, default=32, help="of each (default: %(default)s)")
    parser.add_argument("--methods", default=METHODS, help="(default: %(default)s)")
    parser.add_argument("--budgets", default=BUDGETS, metavar="A,B,…")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    asked = flag_parts(
        models=options.model,
        benchmarks=f"world:count={options.clips},frames={options.frames}",
        methods=options.methods,
        budgets=options.budgets,
    )
    with tempfile.TemporaryDirectory() as folder:
        run(make_grid(**{**asked, "methods": "full"}), Path(folder) / "warm-up")
        shared, seconds = run(make_grid(**asked), Path(folder) / "shared")
        alone, longer = run(make_grid(**asked, reuse=False), Path(folder) / "alone")
    once, each = costs(shared, seconds), costs(alone, longer)
    head = {
        **provenance(),
        "grid": asked,
        "cells": len({row.cell for row in shared}),
        "answers": len(shared),
        "same_answers": answers(shared) == answers(alone),
        "fewer_prefill_seconds": each["prefill_seconds"] / once["prefill_seconds"],
        "faster": each["all"] / once["all"],
    }
    write_result(options.out, head, rows=[{"prefill": "shared", **once}, {"prefill": "per cell", **each}])


if __name__ == "__main__":
    main()
