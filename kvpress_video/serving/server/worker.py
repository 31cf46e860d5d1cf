"""The thread that owns the model, and runs the jobs of all sessions and requests in turns."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

Run = Callable[[Sequence[Any]], Sequence[Any]]


@dataclass
class _Job:
    """One job.

    Attributes:
        run: function from a list of items, including this one, to a list of their results.
        kind: jobs of the same kind may run together; None for a job that runs alone.
    """

    run: Run
    item: Any
    kind: Hashable | None
    future: Future[Any] = field(default_factory=Future)


class Worker:
    """Runs jobs one at a time. Owners take turns, and jobs of one owner run in order.

    Jobs of the same kind that are next for their owners run together, up to a limit. If that fails, they run one by
    one, so that a job fails only for its own reasons.
    """

    def __init__(self, together: int = 1) -> None:
        """Start the thread.

        Args:
            together: maximum number of jobs that run together.
        """
        self._together = together
        self._waiting: OrderedDict[Hashable, deque[_Job]] = OrderedDict()
        self._changed = threading.Condition()
        self._ending = False
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    def submit(self, owner: Hashable, call: Callable[[], Any]) -> Future[Any]:
        """Queue a call behind the other jobs of its owner."""
        return self._queue(owner, _Job(lambda items: [call()], None, None))

    def submit_item(self, owner: Hashable, run: Run, item: Any, kind: Hashable | None) -> Future[Any]:
        """Queue an item that may run together with items of the same kind and `run`; alone if the kind is None."""
        return self._queue(owner, _Job(run, item, kind))

    def _queue(self, owner: Hashable, job: _Job) -> Future[Any]:
        with self._changed:
            if self._ending:
                raise RuntimeError("The worker has ended.")
            self._waiting.setdefault(owner, deque()).append(job)
            self._changed.notify()
        return job.future

    @property
    def waiting(self) -> int:
        """Number of jobs that have not started."""
        with self._changed:
            return sum(map(len, self._waiting.values()))

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def end(self) -> None:
        """Finish the queued jobs, and end the thread."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while jobs := self._next():
            begun = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if begun:
                _run(begun)

    def _next(self) -> list[_Job]:
        """Wait for jobs to run together; return none once the worker has ended."""
        with self._changed:
            while not self._waiting and not self._ending:
                self._changed.wait()
            if not self._waiting:
                return []
            owner = next(iter(self._waiting))
            jobs = [self._take(owner)]
            if jobs[0].kind is not None:
                waiting = ((other, queue[0]) for other, queue in self._waiting.items() if other != owner)
                alike = [other for other, job in waiting if job.kind == jobs[0].kind]
                jobs += [self._take(other) for other in alike[: self._together - 1]]
            return jobs

    def _take(self, owner: Hashable) -> _Job:
        """Take the first job of an owner, whose other jobs move behind those of all owners."""
        queue = self._waiting.pop(owner)
        job = queue.popleft()
        if queue:
            self._waiting[owner] = queue
        return job


def _run(jobs: Sequence[_Job]) -> None:
    try:
        results = jobs[0].run([job.item for job in jobs])
        for job, result in zip(jobs, results, strict=True):
            job.future.set_result(result)
    except BaseException as error:
        if len(jobs) == 1:
            jobs[0].future.set_exception(error)
            return
        for job in jobs:
            _run([job])
