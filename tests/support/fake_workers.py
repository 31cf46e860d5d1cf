"""Workers without models, for tests of executors: they follow a plan and log their cells."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
from sweep_rows import MEASURED

from kvpress_video.errors import BenchmarkError, SweepError
from kvpress_video.sweep.benchmark import Clip, Question
from kvpress_video.sweep.cells import Cell, Task
from kvpress_video.sweep.results.records import Answered, Done, Failure, Outcome
from kvpress_video.sweep.run.scheduler import MEMORY_HINT, Died, Event, pack, serve, unpack

Plan = dict[tuple[str, str], str]


def tasks(clips: int = 4, cells: int = 3) -> list[Task]:
    """Make a task per clip a, b, c, …, each with the cells m0, m1, m2, …"""
    question = Question("q", "How many?", "2", "count")
    return [
        Task(
            "bundled",
            "world",
            0,
            Clip(name, Path(f"{name}.mp4"), (question,), name),
            tuple(Cell(f"m{index}", "10%") for index in range(cells)),
        )
        for name in "abcdefghijklmnop"[:clips]
    ]


def done(cell: Cell, clip: str) -> Done:
    """Make the outcome of a cell that the plan does not name."""
    measured = replace(MEASURED, video=clip, group="")
    return Done(cell, clip, measured, (Answered("q", "count", "", "", "<video>", f"{cell} on {clip}", "2", 1.0),))


def expected(clips: int = 4, cells: int = 3) -> list[Outcome]:
    """Make the outcomes of `tasks` without failures."""
    return [done(cell, task.clip.name) for task in tasks(clips, cells) for cell in task.cells]


def by_cell(outcomes: list[Outcome]) -> list[Outcome]:
    """Sort outcomes, so that lists compare independently of their order."""
    return sorted(outcomes, key=lambda outcome: (outcome.clip, outcome.cell.method))


class Lost(BaseException):
    """Raised where a worker of a `SimulatedPool` dies."""


class Unreadable:
    """Can be pickled, but not unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("not a number",)


@dataclass
class Fake:
    """A worker that follows a plan.

    Attributes:
        folder: where it writes down what it does, and under what name it died once.
        plan: what it does at the turn of a (method, clip); by default it gives `done`.
    """

    folder: Path
    plan: Plan
    device: str | None
    pid: int = field(default_factory=os.getpid)

    def run(self, task: Task) -> Iterator[Outcome]:
        """Yield one outcome per cell."""
        for cell in task.cells:
            clip = task.clip.name
            with (self.folder / "visits").open("a") as visits:
                visits.write(f"{self.pid} {cell.method} {clip} {self.device} {torch.get_num_threads()}\n")
            yield from self._act(self.plan.get((cell.method, clip), "done"), cell, clip)
        if self.plan.get(("end", task.clip.name)) and not self._been(f"end-{task.clip.name}"):
            raise Lost

    def _act(self, what: str, cell: Cell, clip: str) -> Iterator[Outcome]:
        if what == "die once":
            if not self._been(f"{cell.method}-{clip}"):
                os.kill(self.pid, signal.SIGKILL)
        elif what == "die":
            os.kill(self.pid, signal.SIGKILL)
        elif what == "lost":
            raise Lost
        elif what == "lost once":
            if not self._been(f"{cell.method}-{clip}"):
                raise Lost
        elif what == "hang":
            time.sleep(600)
        elif what == "raise":
            raise ValueError("a bug")
        elif what == "raise ours":
            raise BenchmarkError("no such file")
        elif what == "fail":
            yield Failure(cell, clip, "ValueError: this cell alone")
            return
        elif what == "skip":
            return
        elif what == "twice":
            yield done(cell, clip)
        elif what == "unpicklable":
            yield Done(cell, clip, lambda: None, ())  # type: ignore[arg-type]
            return
        elif what == "unreadable":
            yield Done(cell, clip, Unreadable(), ())  # type: ignore[arg-type]
            return
        yield done(cell, clip)

    def _been(self, name: str) -> bool:
        been = (self.folder / name).exists()
        (self.folder / name).touch()
        return been


def _make(folder: Path, plan: Plan, device: str | None) -> Fake:
    with (folder / "made").open("a") as made:
        made.write(f"{os.getpid()} {device}\n")
    return Fake(folder, plan, device)


def maker(folder: Path, plan: Plan | None = None) -> Callable[[str | None], Fake]:
    """Make a factory of fake workers."""
    return partial(_make, folder, plan or {})


def no_model(device: str | None) -> Fake:
    """A factory that fails."""
    raise SweepError("There is no such model.")


def lost(device: str | None) -> Fake:
    """A factory that dies in a `SimulatedPool`."""
    raise Lost


def visits(folder: Path) -> list[tuple[str, str]]:
    """Read the (method, clip) of every cell that a worker started, in order."""
    lines = (folder / "visits").read_text().splitlines()
    return [(method, clip) for _, method, clip, *_ in map(str.split, lines)]


def wait_until(true: Callable[[], bool]) -> None:
    """Wait for a condition, and fail after five minutes."""
    end = time.monotonic() + 300
    while not true():
        assert time.monotonic() < end, "waited for five minutes"
        time.sleep(0.05)


class SimulatedPool:
    """Workers in this process that take turns at random, to test the scheduler without processes.

    Attributes:
        most: largest number of workers at a time.
        started: number of workers started.
    """

    def __init__(self, make: Callable[[str | None], Any], seed: int) -> None:
        self._make, self._random = pack(make), Random(seed)
        self._alive: dict[int, tuple[Iterator[bytes], deque[bytes]]] = {}
        self.most = self.started = 0

    def start(self, slot: int) -> int:
        """Start a worker."""
        inbox: deque[bytes] = deque()
        self.started += 1
        self._alive[self.started] = serve(self._make, f"slot {slot}", iter(inbox.popleft, None)), inbox
        self.most = max(self.most, len(self._alive))
        return self.started

    def send(self, worker: int, task: bytes) -> None:
        """Queue a task for a worker."""
        self._alive[worker][1].append(task)

    def wait(self, workers: Collection[int]) -> Iterator[tuple[int, Event]]:
        """Yield one event of some of the workers."""
        for worker in self._random.sample(sorted(workers), self._random.randint(1, len(workers))):
            try:
                yield worker, unpack(next(self._alive[worker][0]))
            except Lost:
                yield worker, Died("died with signal 9", MEMORY_HINT)

    def end(self, workers: Collection[int]) -> None:
        """Remove workers."""
        for worker in workers:
            del self._alive[worker]

    def alive(self) -> int:
        """Return the number of workers."""
        return len(self._alive)
