"""A whole sweep: from a grid to rows in a store."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path

from ...compressor.registry import parse
from ...errors import BenchmarkError
from ..benchmark import BENCHMARKS, Clip
from ..cells import Cell, Setup, Task
from ..grid.spec import Grid
from ..results.records import Done, Failure
from ..results.store import Store
from .environment import git_revision, versions
from .executors import Executor, choose
from .worker import Worker

CLIPS = "clips"
_FREE = ("device", "reuse")
"""Parts of a setup that do not decide what the answers are: a sweep may be resumed with others."""

Progress = Callable[[int, int, str], None]
Clips = Mapping[tuple[str, int], Sequence[Clip]]


@dataclass(frozen=True)
class SweepResult:
    """What a sweep came to.

    Attributes:
        folder: where its store lies.
        done, jobs: cells × clips that have their answers, of how many.
        failures: those that could not be run.
        interrupted: whether it was stopped before the end.
    """

    folder: Path
    done: int
    jobs: int
    failures: tuple[Failure, ...]
    interrupted: bool


def run_sweep(
    grid: Grid,
    folder: str | Path,
    *,
    resume: bool = False,
    executor: str = "local",
    workers: int | None = None,
    address: str | None = None,
    progress: Progress | None = None,
) -> SweepResult:
    """Answer every question about every clip in every cell, clip by clip, so that an early end still compares equals.

    A cell that fails on a clip is recorded with its error, and the others go on. Ctrl-C ends the sweep with what is
    finished; the same call with `resume=True` does what is missing.

    Args:
        grid: what to run.
        folder: for `sweep.sqlite`, and for clips that a benchmark makes.
        resume: whether to go on with the sweep that the folder holds; cells may be added to it.
        executor: `"local"` processes, or `"ray"`.
        workers: how many; by default one per GPU, or two on a CPU, or one where a model has a `device_map`.
        address: of a running Ray cluster.
        progress: called with the cells × clips dealt with, of how many, and the latest cell.

    Raises:
        SweepError: the folder holds a sweep and `resume` is not given, or holds another one.
        BenchmarkError: a benchmark's files are missing.
        KVPressVideoError: the model or the executor cannot be started.
    """
    folder, cells = Path(folder).resolve(), grid.cells()
    spread = any("device_map" in parse(model)[1] for model in grid.models)
    if workers is None and spread and executor == "local":
        workers = 1
    chosen = choose(partial(make_worker, grid.setup), executor, workers, address, grid.setup.device)
    clips = {(name, seed): _clips(name, seed, folder / CLIPS) for name, seed in _drawn(cells)}
    with Store(folder, _plan(grid.setup, cells, clips), resume=resume) as store:
        interrupted = _run(chosen, cells, clips, store, progress)
        wanted = {(cell, clip.name) for cell in cells for clip in clips[cell.benchmark, cell.seed]}
        done = len(wanted & store.finished())
        failures = tuple(failure for failure in store.failures() if failure.cell in set(cells))
        return SweepResult(folder, done, len(wanted), failures, interrupted)


def make_worker(setup: Setup, device: str | None) -> Worker:
    """A worker; what processes and clusters start."""
    return Worker(setup, device)


def deal(cells: Sequence[Cell], clips: Clips, finished: set[tuple[Cell, str]]) -> Iterator[Task]:
    """What is still to be run: model by model, clip by clip, all cells of a clip together."""
    for (model, benchmark, seed), group in groupby(cells, key=lambda cell: (cell.model, cell.benchmark, cell.seed)):
        mine = tuple(group)
        for clip in clips[benchmark, seed]:
            missing = tuple(cell for cell in mine if (cell, clip.name) not in finished)
            if missing:
                yield Task(model, benchmark, seed, clip, missing)


def _run(executor: Executor, cells: Sequence[Cell], clips: Clips, store: Store, progress: Progress | None) -> bool:
    """Run what is missing; whether it was interrupted."""
    finished = store.finished()
    total = sum(len(clips[cell.benchmark, cell.seed]) for cell in cells)
    tasks = list(deal(cells, clips, finished))
    handled = total - sum(len(task.cells) for task in tasks)
    try:
        with closing(executor.run(tasks)) as outcomes:
            for outcome in outcomes:
                handled += 1
                if isinstance(outcome, Done):
                    store.add(outcome)
                else:
                    store.fail(outcome)
                if progress is not None:
                    progress(handled, total, str(outcome.cell))
    except KeyboardInterrupt:
        return True
    return False


def _drawn(cells: Sequence[Cell]) -> list[tuple[str, int]]:
    return list(dict.fromkeys((cell.benchmark, cell.seed) for cell in cells))


def _clips(name: str, seed: int, folder: Path) -> Sequence[Clip]:
    """The clips of a benchmark.

    Raises:
        BenchmarkError: there are none, two have one name, or a clip has no questions or two of one id.
    """
    clips = BENCHMARKS.make(name).clips(seed, folder)
    if not clips:
        raise BenchmarkError(f"{name} has no clips at seed {seed}.")
    _check_distinct(f"clips of {name}", [clip.name for clip in clips])
    for clip in clips:
        if not clip.questions:
            raise BenchmarkError(f"{name} asks nothing about the clip {clip.name}.")
        _check_distinct(f"questions of {name} about {clip.name}", [question.id for question in clip.questions])
    return clips


def _check_distinct(what: str, names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise BenchmarkError(f"Two {what} are called {twice[0]!r}: their answers could not be told apart.")


def _digest(clip: Clip) -> str:
    """Tells clips with other questions, or of another piece of the video, apart."""
    content = repr(replace(clip, path=Path(clip.path.name)))
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _plan(setup: Setup, cells: Sequence[Cell], clips: Clips) -> dict[str, object]:
    """Everything that decides what the rows are."""
    return {
        "setup": {name: value for name, value in asdict(setup).items() if name not in _FREE},
        "versions": versions(),
        "revision": git_revision(),
        "cells": [asdict(cell) for cell in cells],
        "clips": {
            f"{name} seed {seed}": {clip.name: _digest(clip) for clip in found} for (name, seed), found in clips.items()
        },
    }
