"""Run tasks in local processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Collection, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

import torch

from ..cells import Task
from ..results.records import Outcome
from .scheduler import MEMORY_HINT, Died, Event, WorkerFactory, pack, run_tasks, serve, unpack

_SPAWN = multiprocessing.get_context("spawn")
_SECONDS_TO_END = 10


@dataclass(frozen=True)
class Processes:
    """Runs several tasks at a time, each in a process with its own copy of the models and its share of the cores.

    A process that dies is replaced, and the rest of its task is run again. Child processes ignore Ctrl-C, and end with
    this process however it ends.

    Attributes:
        factory: makes a worker for a device; picklable.
        workers: maximum number of processes; there are never more than tasks.
        devices: assigned to the processes in turn.
    """

    factory: WorkerFactory
    workers: int
    devices: tuple[str | None, ...] = (None,)

    def run(self, tasks: Iterable[Task]) -> Generator[Outcome, None, None]:
        """Run the tasks.

        Raises:
            SweepError: processes cannot be started, or a worker fails outside of any cell.
        """
        threads = max(1, cores() // self.workers)
        yield from run_tasks(_Pool(pack(self.factory), self.devices, threads), self.workers, tasks)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, eq=False)
class _Child:
    process: SpawnProcess
    pipe: Connection


@dataclass(frozen=True)
class _Pool:
    factory: bytes
    devices: tuple[str | None, ...]
    threads: int

    def start(self, slot: int) -> _Child:
        ours, theirs = _SPAWN.Pipe()
        device = self.devices[slot % len(self.devices)]
        process = _SPAWN.Process(target=_run_child, args=(self.factory, device, self.threads, theirs), daemon=True)
        with _sigint_ignored(), theirs:
            process.start()
        return _Child(process, ours)

    def send(self, worker: _Child, task: bytes) -> None:
        with suppress(OSError):
            worker.pipe.send_bytes(task)

    def wait(self, workers: Collection[_Child]) -> Iterator[tuple[_Child, Event]]:
        ready = wait([child.pipe for child in workers])
        for child in workers:
            if child.pipe in ready:
                yield child, _next_event(child)

    def end(self, workers: Collection[_Child]) -> None:
        for child in workers:
            child.process.kill()
            child.pipe.close()
        for child in workers:
            child.process.join()
            child.process.close()


def _next_event(child: _Child) -> Event:
    """Read the next event of a child whose pipe is readable or closed."""
    try:
        return unpack(child.pipe.recv_bytes())
    except (EOFError, OSError):
        child.process.join(_SECONDS_TO_END)
        code = child.process.exitcode or 0
        if code >= 0:
            return Died(f"ended with exit code {code}")
        return Died(f"died with signal {-code}", MEMORY_HINT if -code == signal.SIGKILL else "")


def _run_child(factory: bytes, device: str | None, threads: int, pipe: Connection) -> None:
    """Run tasks from a pipe until the parent closes it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    with suppress(OSError):
        for message in serve(factory, device, _tasks(pipe)):
            pipe.send_bytes(message)


def _tasks(pipe: Connection) -> Iterator[bytes]:
    with suppress(EOFError):
        while True:
            yield pipe.recv_bytes()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        wait([parent.sentinel])
    os._exit(1)


@contextmanager
def _sigint_ignored() -> Iterator[None]:
    """Make processes that are started inside ignore Ctrl-C from the beginning."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
