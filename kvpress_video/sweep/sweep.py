"""A whole sweep: from what is asked to rows, tables and files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..errors import unknown_name
from .environment import git_revision, versions
from .executors import Executor, InProcess, InProcesses, Job
from .report import Line, markdown, summarise, summary_csv
from .results import Results
from .rows import Failure
from .tasks import UNCOMPRESSED, Cell
from .worker import Setup

if TYPE_CHECKING:
    from kvpress_video.benchmarks.world import Clip

DEFAULT_BUDGETS = ("50%", "25%", "12.5%", "6.25%")

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Sweep:
    """What a sweep came to.

    Attributes:
        lines: the tables' lines, by camera and cell.
        failures: cells that were given up.
        done, jobs: cells × clips that have their rows, of how many.
        interrupted: whether it was stopped before the end.
        folder: where rows, tables and failures lie.
    """

    lines: list[Line]
    failures: list[Failure]
    done: int
    jobs: int
    interrupted: bool
    folder: Path


def run_sweep(
    cells: Sequence[Cell],
    clips: Sequence[Clip],
    folder: str | Path,
    setup: Setup | None = None,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    against: str = UNCOMPRESSED,
) -> Sweep:
    """Answer every question about every clip in every cell, clip by clip, so that an early end still compares equals.

    A cell that fails on a clip is given up and recorded; the others go on. Ctrl-C ends the sweep with what is finished;
    the same call takes it up again.

    Args:
        cells: from `make_cells`.
        clips: with their questions.
        folder: for `rows.jsonl`, `failures.jsonl`, `summary.csv`, `table.md` and `sweep.json`.
        setup: model and settings that all cells share.
        workers: processes; by default one per CPU core, up to 2, and one on a GPU.
        progress: called with the jobs dealt with, all jobs, and the latest cell.
        against: the method that the tables compare all others with, at the same budget.

    Raises:
        UnknownNameError: `against` is not among the methods.
        KVPressVideoError: the folder holds another sweep, or the model cannot be loaded.
    """
    methods = {cell.method for cell in cells}
    if against not in methods | {UNCOMPRESSED}:
        raise unknown_name("method to compare with", against, methods)
    setup = replace(setup or Setup(), versions=versions(), revision=git_revision())
    plan = {
        **asdict(setup),
        "cells": [str(cell) for cell in cells],
        "clips": [[Path(clip.path).name, len(clip.questions)] for clip in clips],
    }
    results = Results(folder, plan, {Path(clip.path).name: len(clip.questions) for clip in clips})
    finished, total = results.finished(), len(cells) * len(clips)
    jobs = [Job(cell, clip) for clip in clips for cell in cells if (cell, Path(clip.path).name) not in finished]
    place = {job: number for number, job in enumerate(jobs)}
    handled, interrupted = 0, False
    try:
        for job, outcome in _executor(setup, workers).run(_until_failed(jobs, results)) if jobs else ():
            handled = max(handled, total - len(jobs) + place[job] + 1)
            if isinstance(outcome, Failure):
                results.fail(outcome)
            else:
                results.add(outcome)
            if progress is not None:
                progress(handled, total, str(job.cell))
    except KeyboardInterrupt:
        interrupted = True
    lines = summarise(results.rows, results.failures, cells, against)
    results.write("summary.csv", summary_csv(lines))
    results.write("table.md", markdown(lines, "Sweep" + (" (interrupted)" if interrupted else "")))
    return Sweep(lines, results.failures, len(results.finished()), total, interrupted, results.folder)


def _until_failed(jobs: Sequence[Job], results: Results) -> Iterator[Job]:
    for job in jobs:
        if job.cell not in {failure.cell for failure in results.failures}:
            yield job


def _executor(setup: Setup, workers: int | None) -> Executor:
    if workers is None:
        on_gpu = torch.cuda.is_available() and not str(setup.device).startswith("cpu")
        workers = 1 if on_gpu else min(2, os.cpu_count() or 1)
    return InProcess(setup) if workers <= 1 else InProcesses(setup, workers)
