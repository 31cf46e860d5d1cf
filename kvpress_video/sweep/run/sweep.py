"""Run a sweep: from a grid to rows in a store."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path

from ...errors import BenchmarkError
from ...utils.named_settings import parse
from ..benchmark import BENCHMARKS, Clip
from ..cells import Cell, Setup, Task, suite_of
from ..grid.spec import Grid
from ..results.records import Done, Failure
from ..results.store import Store
from .environment import git_revision, versions
from .executors import Executor, choose
from .files import states_of
from .worker import Worker

CLIPS = "clips"
_FREE = ("device", "reuse")
"""Parts of a setup that do not affect the answers: a sweep may be resumed with other values."""

_LATER = {"experts": None}
"""Parts of a setup missing in plans of earlier versions, with the values used then, which are not written."""

Progress = Callable[[int, int, str], None]
Clips = Mapping[tuple[str, int], Sequence[Clip]]


@dataclass(frozen=True)
class SweepResult:
    """The outcome of a run.

    Attributes:
        folder: folder of the store.
        done: cells × clips with answers.
        jobs: total of cells × clips.
        failures: failures of the cells that were run.
        interrupted: whether the run was stopped before its end.
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
    pilot: int | None = None,
    progress: Progress | None = None,
) -> SweepResult:
    """Answer every question about every clip in every cell.

    The sweep runs clip by clip, so that an interrupted one still compares all cells on the same clips. A cell that
    fails on a clip is recorded with its error, and the others continue. Ctrl-C ends the sweep and keeps its answers;
    the same call with `resume=True` completes it.

    Args:
        grid: grid to run.
        folder: folder for `sweep.sqlite`, and for clips that a benchmark generates.
        resume: whether to continue the sweep in the folder; cells may be added to it.
        executor: `"local"` processes, or `"ray"`.
        workers: maximum number of workers; by default one per GPU, or two on a CPU, or one where a model has a
            `device_map`.
        address: address of a running Ray cluster.
        pilot: run only this many clips of each group, drawn at random but reproducibly.
        progress: called with the finished cells × clips, their total, and the latest cell.

    Raises:
        SweepError: the folder holds a sweep and `resume` is not given, or holds a different sweep, or a video or
            checkpoint has changed since it was used. All but the last are checked before any clip is made.
        BenchmarkError: a benchmark's files are missing.
        KVPressVideoError: the model or the executor cannot be started.
    """
    cells = grid.cells()
    spread = any("device_map" in parse(model)[1] for model in grid.models)
    if workers is None and spread and executor == "local":
        workers = 1
    chosen = choose(partial(make_worker, grid.setup), executor, workers, address, grid.setup.device)
    Store.check(folder, plan_of(grid.setup, cells, {}), resume=resume)
    folder = Path(folder).resolve()
    clips = {(name, seed): clips_of(name, seed, folder / CLIPS) for name, seed in _benchmarks_of(cells)}
    if pilot is not None:
        clips = {suite: _drawn(found, pilot) for suite, found in clips.items()}
    plan = {**plan_of(grid.setup, cells, clips), "files": states_of(clips, grid.models)}
    with Store(folder, plan, resume=resume) as store:
        interrupted = run_missing(chosen, cells, clips, store, progress)
        wanted = {(cell, clip.name) for cell in cells for clip in clips[cell.benchmark, cell.seed]}
        done = len(wanted & store.finished())
        failures = tuple(failure for failure in store.failures() if failure.cell in set(cells))
        return SweepResult(folder, done, len(wanted), failures, interrupted)


def make_worker(setup: Setup, device: str | None) -> Worker:
    """Make a worker, in this process or in another one."""
    return Worker(setup, device)


def missing_tasks(cells: Sequence[Cell], clips: Clips, finished: set[tuple[Cell, str]]) -> Iterator[Task]:
    """Yield the tasks to run, model by model and clip by clip, each with all missing cells of a clip."""
    for (model, benchmark, seed), group in groupby(cells, key=lambda cell: (cell.model, cell.benchmark, cell.seed)):
        mine = tuple(group)
        for clip in clips[benchmark, seed]:
            missing = tuple(cell for cell in mine if (cell, clip.name) not in finished)
            if missing:
                yield Task(model, benchmark, seed, clip, missing)


def run_missing(
    executor: Executor, cells: Sequence[Cell], clips: Clips, store: Store, progress: Progress | None
) -> bool:
    """Run the cells that a store lacks answers of, and return whether Ctrl-C interrupted them."""
    total = sum(len(clips[cell.benchmark, cell.seed]) for cell in cells)
    tasks = list(missing_tasks(cells, clips, store.finished()))
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


def _benchmarks_of(cells: Sequence[Cell]) -> list[tuple[str, int]]:
    return list(dict.fromkeys((cell.benchmark, cell.seed) for cell in cells))


def clips_of(name: str, seed: int, folder: Path) -> Sequence[Clip]:
    """Return the clips of a benchmark, checked.

    Args:
        name: the benchmark, with its options.
        seed: seed of its sampling.
        folder: folder for files that it generates.

    Raises:
        BenchmarkError: there are no clips, two have the same name, or a clip has no questions or two with the same id.
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


def _drawn(clips: Sequence[Clip], count: int) -> Sequence[Clip]:
    """Draw a number of clips from each group, and return them in their order."""
    groups = {clip.group: [place for place, other in enumerate(clips) if other.group == clip.group] for clip in clips}
    chosen = {place for of in groups.values() for place in random.Random(0).sample(of, min(count, len(of)))}
    return [clip for place, clip in enumerate(clips) if place in chosen]


def _check_distinct(nouns: str, names: Sequence[str]) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise BenchmarkError(f"Two {nouns} are called {repeated[0]!r}: their answers could not be told apart.")


def _digest(clip: Clip) -> str:
    """Hash the questions about a clip and the part of the video that it shows."""
    content = repr(replace(clip, path=Path(clip.path.name)))
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def plan_of(setup: Setup, cells: Sequence[Cell], clips: Clips) -> dict[str, object]:
    """Collect everything that determines the rows, except states of files, for a store."""
    return {
        "setup": {
            name: value
            for name, value in asdict(setup).items()
            if name not in _FREE and (name not in _LATER or value != _LATER[name])
        },
        "versions": versions(),
        "revision": git_revision(),
        "cells": [asdict(cell) for cell in cells],
        "clips": {
            suite_of(name, seed): {clip.name: _digest(clip) for clip in found} for (name, seed), found in clips.items()
        },
    }
