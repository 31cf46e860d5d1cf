"""Executors of tasks: this process, local processes, or a Ray cluster."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch

from ...errors import SweepError, unknown_name
from ..cells import Task
from ..results.records import Outcome
from .process_pool import Processes, cores
from .ray_pool import OnRay
from .scheduler import WorkerFactory, check_finished, without

KINDS = ("local", "ray")


class Executor(Protocol):
    """Turns tasks into outcomes."""

    def run(self, tasks: Iterable[Task]) -> Generator[Outcome, None, None]:
        """Yield one outcome per cell of every task as soon as it is available, in any order.

        A task is taken from the iterable only when a worker is ready for it or about to be. Workers end with the
        generator: close it (`contextlib.closing`) if it may be left early.

        Raises:
            KVPressVideoError: the work cannot continue. An error in one cell is a `Failure` instead.
        """
        ...


@dataclass(frozen=True)
class InProcess:
    """Runs tasks one at a time in this process.

    Attributes:
        factory: makes the worker.
        device: device of the worker; None for its default.
    """

    factory: WorkerFactory
    device: str | None = None

    def run(self, tasks: Iterable[Task]) -> Generator[Outcome, None, None]:
        """Run the tasks.

        Raises:
            SweepError: the worker returns unexpected outcomes.
        """
        worker = None
        for task in tasks:
            worker = worker or self.factory(self.device)
            for outcome in worker.run(task):
                task = without(task, outcome)
                yield outcome
            check_finished(task)


def choose(
    factory: WorkerFactory,
    kind: str = "local",
    workers: int | None = None,
    address: str | None = None,
    device: str | None = None,
) -> Executor:
    """Choose an executor.

    Args:
        factory: makes a worker for a device; picklable.
        kind: `"local"` or `"ray"`.
        workers: maximum number of workers. By default `"local"` has one per GPU, or two on the CPU, or one where
            another `device` is given; a single worker is this process. Give 1 for a model that `device_map` spreads
            over all GPUs. For `"ray"` see `OnRay`.
        address: address of a Ray cluster.
        device: device of every worker.

    Raises:
        UnknownNameError: unknown kind.
        SweepError: fewer than one worker, an address without Ray, or Ray is not installed.
    """
    if kind not in KINDS:
        raise unknown_name("executor", kind, KINDS)
    if workers is not None and workers < 1:
        raise SweepError(f"A sweep needs at least one worker, got {workers}.")
    if kind == "ray":
        return OnRay(factory, address, workers, device)
    if address is not None:
        raise SweepError(f"The address {address!r} is for the executor 'ray', not for 'local'.")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device is None and gpus:
        devices: tuple[str | None, ...] = tuple(f"cuda:{index}" for index in range(gpus))
        default = gpus
    else:
        devices = (device,)
        default = min(2, cores()) if device in (None, "cpu") else 1
    workers = workers or default
    return InProcess(factory, device) if workers == 1 else Processes(factory, workers, devices)
