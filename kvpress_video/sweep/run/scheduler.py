"""Assign tasks to workers in other processes, and reassign the unfinished tasks of workers that died."""

from __future__ import annotations

import pickle
import traceback
from collections import Counter, deque
from collections.abc import Callable, Collection, Generator, Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from ...errors import KVPressVideoError, SweepError
from ..cells import Cell, Task
from ..results.records import Done, Failure, Outcome

MAX_DEATHS = 3
"""Deaths after which a cell is recorded as failed, and failed starts in a row after which the sweep ends."""
MEMORY_HINT = "probably out of memory: use fewer workers"


class Worker(Protocol):
    """Runs tasks with its own copy of the models, which it loads when a task first needs them."""

    def run(self, task: Task) -> Iterator[Outcome]:
        """Yield one outcome per cell, in the order of the cells, each as soon as it is available."""
        ...


WorkerFactory = Callable[[str | None], Worker]
"""Makes a worker for a device; None for the default device."""


@dataclass(frozen=True)
class Ready:
    """Event: the worker has finished its task, if any, and waits for the next."""


@dataclass(frozen=True)
class Raised:
    """Event: the worker failed outside of any cell."""

    error: KVPressVideoError
    traceback: str


@dataclass(frozen=True)
class Died:
    """Event: the worker no longer exists.

    Attributes:
        how: how it ended: `"died with signal 9"`.
        hint: likely cause, if known.
    """

    how: str
    hint: str = ""


Event = Ready | Raised | Died | Done | Failure


def pack(factory: WorkerFactory) -> bytes:
    """Pickle a worker factory for `serve`.

    Raises:
        SweepError: it cannot be pickled.
    """
    try:
        return pickle.dumps(factory)
    except Exception as error:
        raise SweepError(f"Workers cannot be made in other processes: {type(error).__name__}: {error}") from error


def serve(factory: bytes, device: str | None, tasks: Iterable[bytes]) -> Iterator[bytes]:
    """Run pickled tasks in a new worker, and yield its events as messages for `unpack`.

    The events are `Ready`, then for each task its outcomes and `Ready` again; or `Raised`, which is the last.
    """
    try:
        worker: Worker = pickle.loads(factory)(device)
        yield pickle.dumps(Ready())
        for task in tasks:
            for outcome in worker.run(pickle.loads(task)):
                yield pickle.dumps(outcome)
            yield pickle.dumps(Ready())
    except KVPressVideoError as error:
        yield pickle.dumps(Raised(error, traceback.format_exc()))
    except Exception as error:
        wrapped = SweepError(f"A worker failed outside of any cell: {type(error).__name__}: {error}")
        yield pickle.dumps(Raised(wrapped, traceback.format_exc()))


def unpack(message: bytes) -> Event:
    """Unpickle an event of a worker.

    Raises:
        SweepError: it cannot be unpickled here.
    """
    try:
        event: Event = pickle.loads(message)
    except Exception as error:
        raise SweepError(f"Cannot unpickle the message of a worker: {type(error).__name__}: {error}") from error
    return event


def without(task: Task, outcome: Outcome) -> Task:
    """Remove the cell of an outcome from a task.

    Raises:
        SweepError: the task does not have it.
    """
    if outcome.cell not in task.cells or outcome.clip != task.clip.name:
        raise SweepError(f"A worker returned an outcome that was not asked for: {outcome.cell} on {outcome.clip}.")
    return replace(task, cells=tuple(cell for cell in task.cells if cell != outcome.cell))


def check_finished(task: Task) -> None:
    """Check that no cell of a task is left.

    Raises:
        SweepError: some cells have no outcome.
    """
    if task.cells:
        missing = ", ".join(map(str, task.cells))
        raise SweepError(f"A worker returned no outcome for {missing} on {task.clip.name}.")


class TaskQueue:
    """Waiting tasks, running tasks, and how many workers died at each cell.

    Attributes:
        running: the rest of each worker's task, by worker.
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        self.running: dict[Hashable, Task] = {}
        self._tasks = iter(tasks)
        self._waiting: deque[Task] = deque()
        self._deaths: Counter[tuple[Cell, str]] = Counter()

    def has(self, count: int) -> bool:
        """Return whether at least `count` tasks wait; takes no more than that from the iterable."""
        while len(self._waiting) < count and (task := next(self._tasks, None)):
            self._waiting.append(task)
        return len(self._waiting) >= count

    def assign(self, worker: Hashable) -> Task | None:
        """Assign the next task to a worker; None if there is none."""
        if not self.has(1):
            return None
        self.running[worker] = self._waiting.popleft()
        return self.running[worker]

    def record(self, worker: Hashable, outcome: Outcome) -> None:
        """Remove a finished cell from a worker's task.

        Raises:
            SweepError: as in `without`.
        """
        self.running[worker] = without(self.running[worker], outcome)

    def finish(self, worker: Hashable) -> None:
        """Remove a worker's finished task.

        Raises:
            SweepError: as in `check_finished`.
        """
        check_finished(self.running.pop(worker))

    def requeue(self, worker: Hashable, death: Died) -> Failure | None:
        """Put the rest of a dead worker's task back in front.

        Returns:
            The failure of its first cell, once workers have died at it three times.
        """
        task, failure = self.running.pop(worker), None
        if task.cells:
            turn = task.cells[0], task.clip.name
            self._deaths[turn] += 1
            if self._deaths[turn] == MAX_DEATHS:
                failure = Failure(*turn, "; ".join(filter(None, (f"worker {death.how} three times", death.hint))))
                task = without(task, failure)
        if task.cells:
            self._waiting.appendleft(task)
        return failure


WorkerId = TypeVar("WorkerId", bound=Hashable)


class Pool(Protocol[WorkerId]):
    """Starts, feeds and ends workers, each known by an id."""

    def start(self, slot: int) -> WorkerId:
        """Start a worker in a slot, numbered from 0; its first event is `Ready`."""
        ...

    def send(self, worker: WorkerId, task: bytes) -> None:
        """Send a task to a ready worker. If the worker has died, `wait` reports it."""
        ...

    def wait(self, workers: Collection[WorkerId]) -> Iterable[tuple[WorkerId, Event]]:
        """Wait until some workers have an event, and return one event of each of these."""
        ...

    def end(self, workers: Collection[WorkerId]) -> None:
        """Kill workers."""
        ...


def run_tasks(pool: Pool[WorkerId], max_workers: int, tasks: Iterable[Task]) -> Generator[Outcome, None, None]:
    """Run tasks on at most `max_workers` workers of a pool; none is left however this ends.

    Raises:
        SweepError: workers die before they are ready, or one fails outside of any cell.
        KVPressVideoError: a worker raised it outside of any cell.
    """
    queue = TaskQueue(tasks)
    slots: dict[WorkerId, int] = {}
    failed_starts = 0
    try:
        while queue.running or queue.has(1):
            while len(slots) < max_workers and queue.has(len(slots) - len(queue.running) + 1):
                slot = min(set(range(max_workers)).difference(slots.values()))
                slots[pool.start(slot)] = slot
            for worker, event in pool.wait(tuple(slots)):
                match event:
                    case Ready():
                        failed_starts = 0
                        if worker in queue.running:
                            queue.finish(worker)
                        if task := queue.assign(worker):
                            pool.send(worker, pickle.dumps(task))
                        else:
                            del slots[worker]
                            pool.end((worker,))
                    case Raised(error, text):
                        raise error from Exception(f"in the worker:\n{text}")
                    case Died():
                        del slots[worker]
                        pool.end((worker,))
                        if worker not in queue.running:
                            failed_starts += 1
                            if failed_starts == MAX_DEATHS:
                                raise SweepError(
                                    f"No worker can be started: three in a row {event.how} before they were ready."
                                )
                        elif failure := queue.requeue(worker, event):
                            yield failure
                    case _:
                        queue.record(worker, event)
                        yield event
    finally:
        pool.end(tuple(slots))
