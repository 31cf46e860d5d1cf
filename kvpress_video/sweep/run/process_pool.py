"""Runs tasks by processes of this machine."""

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
from .scheduler import SHORT_OF_MEMORY, Event, Gone, Make, pack, run_tasks, serve, unpack

_SPAWN = multiprocessing.get_context("spawn")
_SECONDS_TO_END = 10


@dataclass(frozen=True)
class Processes:
    """Several tasks at a time, each by a process with its own copy of the models and its share of the cores.

    A process that dies is replaced, and what it had not finished is dealt out again. They leave Ctrl-C to this process,
    and end with it, however it ends.

    Attributes:
        make: makes a worker for a device; picklable.
        workers: processes at most; there are never more than tasks.
        devices: dealt out to them in turn; their default device if there are none.
    """

    make: Make
    workers: int
    devices: tuple[str | None, ...] = (None,)

    def run(self, tasks: Iterable[Task]) -> Generator[Outcome, None, None]:
        """Run the tasks.

        Raises:
            SweepError: processes cannot be started, or a worker fails outside of any cell.
        """
        threads = max(1, cores() // self.workers)
        yield from run_tasks(_Pool(pack(self.make), self.devices, threads), self.workers, tasks)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, eq=False)
class _Child:
    process: SpawnProcess
    pipe: Connection


@dataclass(frozen=True)
class _Pool:
    make: bytes
    devices: tuple[str | None, ...]
    threads: int

    def start(self, place: int) -> _Child:
        ours, theirs = _SPAWN.Pipe()
        device = self.devices[place % len(self.devices)]
        process = _SPAWN.Process(target=_live, args=(self.make, device, self.threads, theirs), daemon=True)
        with _deaf_to_ctrl_c(), theirs:
            process.start()
        return _Child(process, ours)

    def deal(self, hand: _Child, task: bytes) -> None:
        with suppress(OSError):
            hand.pipe.send_bytes(task)

    def wait(self, hands: Collection[_Child]) -> Iterator[tuple[_Child, Event]]:
        ready = wait([child.pipe for child in hands])
        for child in hands:
            if child.pipe in ready:
                yield child, _hear(child)

    def end(self, hands: Collection[_Child]) -> None:
        for child in hands:
            child.process.kill()
            child.pipe.close()
        for child in hands:
            child.process.join()
            child.process.close()


def _hear(child: _Child) -> Event:
    """The next event of a child whose pipe has something to read, or has come to its end."""
    try:
        return unpack(child.pipe.recv_bytes())
    except (EOFError, OSError):
        child.process.join(_SECONDS_TO_END)
        code = child.process.exitcode or 0
        if code >= 0:
            return Gone(f"ended with exit code {code}")
        return Gone(f"died with signal {-code}", SHORT_OF_MEMORY if -code == signal.SIGKILL else "")


def _live(make: bytes, device: str | None, threads: int, pipe: Connection) -> None:
    """What a child does until the parent has no more for it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    with suppress(OSError):
        for message in serve(make, device, _tasks(pipe)):
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
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Processes started within ignore Ctrl-C from the beginning."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
