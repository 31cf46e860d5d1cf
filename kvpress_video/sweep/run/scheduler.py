"""Deals tasks out to workers elsewhere, takes their outcomes, and deals out again what lost workers left."""

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

STRIKES = 3
SHORT_OF_MEMORY = "most likely for want of memory: use fewer workers"


class Worker(Protocol):
    """Runs tasks; it has its own copy of the models, which it loads when a task first needs them."""

    def run(self, task: Task) -> Iterator[Outcome]:
        """One outcome per cell, in the order of the cells, each as soon as it is there."""
        ...


Make = Callable[[str | None], Worker]


@dataclass(frozen=True)
class Ready:
    """The worker waits for a task; the one it had is finished."""


@dataclass(frozen=True)
class Raised:
    """The worker failed outside of any cell."""

    error: KVPressVideoError
    traceback: str


@dataclass(frozen=True)
class Gone:
    """The worker is no more.

    Attributes:
        how: it ended: `"died with signal 9"`.
        why: as far as one can tell.
    """

    how: str
    why: str = ""


Event = Ready | Raised | Gone | Done | Failure


def pack(make: Make) -> bytes:
    """The maker of workers, as `serve` takes it.

    Raises:
        SweepError: it cannot be sent to another process.
    """
    try:
        return pickle.dumps(make)
    except Exception as error:
        raise SweepError(f"Workers cannot be made in other processes: {type(error).__name__}: {error}") from error


def serve(make: bytes, device: str | None, tasks: Iterable[bytes]) -> Iterator[bytes]:
    """The life of a worker, as messages for `unpack`: ready, outcomes, ready, outcomes, …, or an error at the end."""
    try:
        worker: Worker = pickle.loads(make)(device)
        yield pickle.dumps(Ready())
        for task in tasks:
            for outcome in worker.run(pickle.loads(task)):
                yield pickle.dumps(outcome)
            yield pickle.dumps(Ready())
    except KVPressVideoError as error:
        yield pickle.dumps(Raised(error, traceback.format_exc()))
    except Exception as error:
        told = SweepError(f"A worker failed outside of any cell: {type(error).__name__}: {error}")
        yield pickle.dumps(Raised(told, traceback.format_exc()))


def unpack(message: bytes) -> Event:
    """What a worker says.

    Raises:
        SweepError: it cannot be read here.
    """
    try:
        event: Event = pickle.loads(message)
    except Exception as error:
        raise SweepError(f"What a worker sent cannot be read: {type(error).__name__}: {error}") from error
    return event


def without(task: Task, outcome: Outcome) -> Task:
    """What is left of a task after one of its outcomes.

    Raises:
        SweepError: the task did not ask for it.
    """
    if outcome.cell not in task.cells or outcome.clip != task.clip.name:
        raise SweepError(f"A worker gave an outcome it was not asked for: {outcome.cell} on {outcome.clip}.")
    return replace(task, cells=tuple(cell for cell in task.cells if cell != outcome.cell))


def check_finished(task: Task) -> None:
    """See that nothing is left of a task.

    Raises:
        SweepError: some cells have no outcome.
    """
    if task.cells:
        missing = ", ".join(map(str, task.cells))
        raise SweepError(f"A worker gave no outcome for {missing} on {task.clip.name}.")


class TaskQueue:
    """Which tasks wait, who works on what, and at which cells workers died.

    Attributes:
        dealt: what each worker has still to do.
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        self.dealt: dict[Hashable, Task] = {}
        self._tasks = iter(tasks)
        self._waiting: deque[Task] = deque()
        self._deaths: Counter[tuple[Cell, str]] = Counter()

    def reserve(self, count: int) -> bool:
        """Whether there are tasks for that many more workers; only as many are taken from the iterable."""
        while len(self._waiting) < count and (task := next(self._tasks, None)):
            self._waiting.append(task)
        return len(self._waiting) >= count

    def deal(self, hand: Hashable) -> Task | None:
        """A task for a worker; None if there is no more."""
        if not self.reserve(1):
            return None
        self.dealt[hand] = self._waiting.popleft()
        return self.dealt[hand]

    def take(self, hand: Hashable, outcome: Outcome) -> None:
        """Cross a cell off a worker's task.

        Raises:
            SweepError: as `without`.
        """
        self.dealt[hand] = without(self.dealt[hand], outcome)

    def finish(self, hand: Hashable) -> None:
        """Cross a worker's task off.

        Raises:
            SweepError: as `check_finished`.
        """
        check_finished(self.dealt.pop(hand))

    def lose(self, hand: Hashable, gone: Gone) -> Failure | None:
        """Take back what a lost worker left; its first cell is a failure once workers have died at it three times."""
        task, failure = self.dealt.pop(hand), None
        if task.cells:
            turn = task.cells[0], task.clip.name
            self._deaths[turn] += 1
            if self._deaths[turn] == STRIKES:
                failure = Failure(*turn, "; ".join(filter(None, (f"worker {gone.how} three times", gone.why))))
                task = without(task, failure)
        if task.cells:
            self._waiting.appendleft(task)
        return failure


WorkerId = TypeVar("WorkerId", bound=Hashable)


class Pool(Protocol[WorkerId]):
    """Where workers live. Each is known by its hand."""

    def start(self, place: int) -> WorkerId:
        """A new worker in one of the places, numbered from 0; its first event is that it is ready."""
        ...

    def deal(self, hand: WorkerId, task: bytes) -> None:
        """Give a worker that is ready a task. That it may have died meanwhile is told by `wait`."""
        ...

    def wait(self, hands: Collection[WorkerId]) -> Iterable[tuple[WorkerId, Event]]:
        """Wait until some workers have something to say: one event of each."""
        ...

    def end(self, hands: Collection[WorkerId]) -> None:
        """End workers at once, whatever they do."""
        ...


def run_tasks(pool: Pool[WorkerId], workers: int, tasks: Iterable[Task]) -> Generator[Outcome, None, None]:
    """Run tasks by at most so many workers of a pool; none is left when this ends, in whatever way.

    Raises:
        SweepError: workers die before they are ready, or fail outside of any cell.
        KVPressVideoError: what a worker raised outside of any cell.
    """
    ledger = TaskQueue(tasks)
    crew: dict[WorkerId, int] = {}
    false_starts = 0
    try:
        while ledger.dealt or ledger.reserve(1):
            while len(crew) < workers and ledger.reserve(len(crew) - len(ledger.dealt) + 1):
                place = min(set(range(workers)).difference(crew.values()))
                crew[pool.start(place)] = place
            for hand, event in pool.wait(tuple(crew)):
                match event:
                    case Ready():
                        false_starts = 0
                        if hand in ledger.dealt:
                            ledger.finish(hand)
                        if task := ledger.deal(hand):
                            pool.deal(hand, pickle.dumps(task))
                        else:
                            del crew[hand]
                            pool.end((hand,))
                    case Raised(error, text):
                        raise error from Exception(f"in the worker:\n{text}")
                    case Gone():
                        del crew[hand]
                        pool.end((hand,))
                        if hand not in ledger.dealt:
                            false_starts += 1
                            if false_starts == STRIKES:
                                raise SweepError(
                                    f"No worker can be started: three in a row {event.how} before they were ready."
                                )
                        elif failure := ledger.lose(hand, event):
                            yield failure
                    case _:
                        ledger.take(hand, event)
                        yield event
    finally:
        pool.end(tuple(crew))
