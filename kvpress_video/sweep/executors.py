"""Run jobs one after another in this process, or spread over worker processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Protocol

import torch

from ..errors import KVPressVideoError
from .rows import Failure, Row
from .tasks import Cell
from .worker import Setup, Worker

if TYPE_CHECKING:
    from kvpress_video.benchmarks.world import Clip


@dataclass(frozen=True)
class Job:
    """One cell on one clip."""

    cell: Cell
    clip: Clip


Outcome = list[Row] | Failure


class Executor(Protocol):
    """Turns jobs into outcomes, in any order; it takes a job from the iterable only when it is about to run it."""

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Run the jobs."""
        ...


@dataclass(frozen=True)
class InProcess:
    """One job after the other, here."""

    setup: Setup

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Run the jobs."""
        worker = Worker(self.setup)
        for job in jobs:
            yield job, attempt(worker, job)


@dataclass(frozen=True)
class InProcesses:
    """Several jobs at a time, each in a process with its own copy of the model and its share of the cores."""

    setup: Setup
    workers: int

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Run the jobs.

        Raises:
            KVPressVideoError: the model cannot be loaded, or a process was killed.
        """
        waiting = iter(jobs)
        threads = max(1, (os.cpu_count() or 1) // self.workers)
        pool = ProcessPoolExecutor(
            self.workers, multiprocessing.get_context("spawn"), _start_worker, (self.setup, threads)
        )
        running: dict[Future[Outcome], Job] = {}

        def submit(count: int) -> None:
            for job in islice(waiting, count):
                running[pool.submit(_attempt_here, job)] = job

        try:
            with _deaf_to_ctrl_c():
                submit(self.workers + 1)
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
                    submit(1)
        except BrokenProcessPool as error:
            raise KVPressVideoError(
                "A worker process was killed, most likely for want of memory: use fewer workers."
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def attempt(worker: Worker, job: Job) -> Outcome:
    """The rows of a job, or why there are none: one cell's error must not end the sweep."""
    try:
        return worker.run(job.cell, job.clip)
    except Exception as error:
        return Failure(job.cell.method, job.cell.budget, job.clip.path.name, f"{type(error).__name__}: {error}")


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Processes started within ignore Ctrl-C, which is then this process's alone to handle."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


_worker: Worker | KVPressVideoError | None = None


def _start_worker(setup: Setup, threads: int) -> None:
    global _worker
    torch.set_num_threads(threads)
    try:
        _worker = Worker(setup)
    except KVPressVideoError as error:
        _worker = error


def _attempt_here(job: Job) -> Outcome:
    if isinstance(_worker, Worker):
        return attempt(_worker, job)
    raise _worker or KVPressVideoError("The worker was not started.")
