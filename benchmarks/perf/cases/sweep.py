"""A sweep with one prefill of each clip for all one-shot cells, compared with one prefill per cell.

One grid of the bundled model on the bundled world runs both ways in one process; all answers must be equal. The model
is the bundled one at every scale, since answers of random weights are meaningless.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from kvpress_video.errors import BenchmarkError
from kvpress_video.sweep.grid.spec import make_grid
from kvpress_video.sweep.results.records import Row
from kvpress_video.sweep.results.store import Store
from kvpress_video.sweep.run.sweep import run_sweep

from ..results.measurement import Figure, Goal
from ..setup.scales import Bed

METHODS = ("random", "recent", "key-norm", "snapkv", "tar", "van", "infinipot-v", "standby", "novelty",
           "standby-novelty")  # fmt: skip
_FRAMES = 32


class SweepRun(NamedTuple):
    """The rows of a sweep, and its seconds, including reading clips and scoring answers."""

    rows: list[Row]
    seconds: float

    def costs(self) -> dict[str, float]:
        """Seconds by kind of work."""
        measured = {(row.cell, row.clip): row.measured for row in self.rows}.values()
        return {
            "prefill_seconds": sum(one.report.prefill_seconds for one in measured),
            "compress_seconds": sum(one.report.compress_seconds for one in measured),
            "answer_seconds": sum(one.answer_seconds for one in measured),
            "seconds": self.seconds,
        }

    def answers(self) -> dict[Any, tuple[Any, ...]]:
        """Answer and size of the cache by question."""
        found = {}
        for row in self.rows:
            report = row.measured.report
            found[row.cell, row.clip, row.answered.question] = (row.answered.answer, report.entries, report.bytes)
        return found


def run(bed: Bed) -> Iterator[Figure]:
    """Run the grid both ways and compare seconds."""
    asked = {
        "models": ["bundled"],
        "benchmarks": [f"world:count={bed.scale.clips},frames={_FRAMES}"],
        "methods": list(METHODS),
        "budgets": list(bed.scale.ratios),
        "device": str(bed.device),
    }
    with tempfile.TemporaryDirectory() as folder:
        _swept({**asked, "methods": "full"}, Path(folder) / "warm-up")
        shared = _swept(asked, Path(folder) / "shared")
        alone = _swept({**asked, "reuse": False}, Path(folder) / "alone")
    if shared.answers() != alone.answers():
        raise BenchmarkError("Cells that share a prefill gave other answers than cells run alone.")
    once, each = shared.costs(), alone.costs()
    cells = len({row.cell for row in shared.rows})
    case = f"{len(METHODS)} methods × {len(bed.scale.ratios)} ratios, {bed.scale.clips} clips of {_FRAMES} frames"
    raw = {"cells": cells, "answers": len(shared.rows), "shared": once, "alone": each, "rounds": 1}
    yield Figure(
        "sweep", case, "seconds of prefill, one per cell ÷ shared", each["prefill_seconds"] / once["prefill_seconds"],
        "×", Goal(5, least=True), float(cells), "all cells but the first reuse the prefill", raw,
    )  # fmt: skip
    yield Figure(
        "sweep", case, "total seconds, a prefill per cell ÷ shared", each["seconds"] / once["seconds"], "×", raw=raw
    )


def _swept(asked: dict[str, Any], folder: Path) -> SweepRun:
    started = time.perf_counter()
    done = run_sweep(make_grid(**asked), folder, workers=1)
    if done.failures:
        raise BenchmarkError(f"A cell of the sweep could not be run: {done.failures[0].error}")
    seconds = time.perf_counter() - started
    with Store(folder) as store:
        return SweepRun(store.rows(), seconds)
