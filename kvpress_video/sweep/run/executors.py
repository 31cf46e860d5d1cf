"""What runs the tasks of a sweep: this process, processes of this machine, or a Ray cluster."""

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
from .scheduler import Make, check_finished, without

KINDS = ("local", "ray")


class Executor(Protocol):
    """Turns tasks into outcomes."""

    def run(self, tasks: Iterable[Task]) -> Generator[Outcome, None, None]:
        """One outcome per cell of every task, each as soon as it is there, in any order.

        A task is taken from the iterable only when a worker is there for it, or about to be. Workers end with the
        generator: close it (`contextlib.closing`) where it may be left early.

        Raises:
            KVPressVideoError: the work cannot go on. What goes wrong in one cell is a `Failure`.
        """
        ...


@dataclass(frozen=True)
class InProcess:
    """One task after the other, here.

    Attributes:
        make: makes the worker for a device.
        device: its device; None for its default.
    """

    make: Make
    device: str | None = None

    def run(self, tasks: Iterable[Task]) -> Generator[Outcome, None, None]:
        """Run the tasks.

        Raises:
            SweepError: the worker gives other outcomes than were asked for.
        """
        worker = None
        for task in tasks:
            worker = worker or self.make(self.device)
            for outcome in worker.run(task):
                task = without(task, outcome)
                yield outcome
            check_finished(task)


def choose(
    make: Make,
    kind: str = "local",
    workers: int | None = None,
    address: str | None = None,
    device: str | None = None,
) -> Executor:
    """The executor that a user asks for.

    Args:
        make: makes a worker for a device; picklable.
        kind: `"local"` or `"ray"`.
        workers: at a time. By default `"local"` has one per GPU, or two on the CPU, or one where another `device` is
            given; one is this process. Give 1 for a model that `device_map` spreads over all GPUs. For `"ray"` see
            `OnRay`.
        address: of a Ray cluster.
        device: of every worker.

    Raises:
        UnknownNameError: no such kind.
        SweepError: fewer than one worker, an address without Ray, or Ray is not installed.
    """
    if kind not in KINDS:
        raise unknown_name("executor", kind, KINDS)
    if workers is not None and workers < 1:
        raise SweepError(f"A sweep needs at least one worker, got {workers}.")
    if kind == "ray":
        return OnRay(make, address, workers, device)
    if address is not None:
        raise SweepError(f"The address {address!r} is for the executor 'ray', not for 'local'.")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device is None and gpus:
        devices: tuple[str | None, ...] = tuple(f"cuda:{index}" for index in range(gpus))
        usual = gpus
    else:
        devices = (device,)
        usual = min(2, cores()) if device in (None, "cpu") else 1
    workers = workers or usual
    return InProcess(make, device) if workers == 1 else Processes(make, workers, devices)
