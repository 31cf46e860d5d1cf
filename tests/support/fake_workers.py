"""Workers without models, for the executors' tests: they do what a plan says and write down what they did."""

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
    """Clips a, b, c, … with the cells m0, m1, m2, …"""
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
    """What every fake worker finds out about a cell that its plan does not name."""
    measured = replace(MEASURED, video=clip, group="")
    return Done(cell, clip, measured, (Answered("q", "count", "", "", "<video>", f"{cell} on {clip}", "2", 1.0),))


def expected(clips: int = 4, cells: int = 3) -> list[Outcome]:
    """What `tasks` come to where nothing goes wrong."""
    return [done(cell, task.clip.name) for task in tasks(clips, cells) for cell in task.cells]


def by_cell(outcomes: list[Outcome]) -> list[Outcome]:
    """Sorted, so that lists of outcomes compare whatever order they came in."""
    return sorted(outcomes, key=lambda outcome: (outcome.clip, outcome.cell.method))


class Lost(BaseException):
    """What death is to a worker of a `SimulatedPool`."""


class Unreadable:
    """Can be pickled, but not read again."""

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
        """One outcome per cell."""
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
    """What executors make these workers by."""
    return partial(_make, folder, plan or {})


def no_model(device: str | None) -> Fake:
    """A maker that cannot make."""
    raise SweepError("There is no such model.")


def lost(device: str | None) -> Fake:
    """A maker that dies in a `SimulatedPool`."""
    raise Lost


def visits(folder: Path) -> list[tuple[str, str]]:
    """The (method, clip) that workers came to, in order, those at which they died among them."""
    lines = (folder / "visits").read_text().splitlines()
    return [(method, clip) for _, method, clip, *_ in map(str.split, lines)]


def wait_until(true: Callable[[], bool]) -> None:
    """Fails after five minutes."""
    end = time.monotonic() + 300
    while not true():
        assert time.monotonic() < end, "waited for five minutes"
        time.sleep(0.05)


class SimulatedPool:
    """Workers that live here and take turns by lot, so that what is kept account of can be tested without processes.

    Attributes:
        most: workers that were there at once.
        started: workers in all.
    """

    def __init__(self, make: Callable[[str | None], Any], seed: int) -> None:
        self._make, self._random = pack(make), Random(seed)
        self._alive: dict[int, tuple[Iterator[bytes], deque[bytes]]] = {}
        self.most = self.started = 0

    def start(self, slot: int) -> int:
        """A new worker."""
        inbox: deque[bytes] = deque()
        self.started += 1
        self._alive[self.started] = serve(self._make, f"slot {slot}", iter(inbox.popleft, None)), inbox
        self.most = max(self.most, len(self._alive))
        return self.started

    def send(self, worker: int, task: bytes) -> None:
        """Put it into the inbox."""
        self._alive[worker][1].append(task)

    def wait(self, workers: Collection[int]) -> Iterator[tuple[int, Event]]:
        """One event of some of them."""
        for worker in self._random.sample(sorted(workers), self._random.randint(1, len(workers))):
            try:
                yield worker, unpack(next(self._alive[worker][0]))
            except Lost:
                yield worker, Died("died with signal 9", MEMORY_HINT)

    def end(self, workers: Collection[int]) -> None:
        """Forget them."""
        for worker in workers:
            del self._alive[worker]

    def alive(self) -> int:
        """How many there are."""
        return len(self._alive)
