"""Run tasks in actors of a Ray cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ...errors import SweepError
from ...utils.ray_connection import connected
from ..cells import Task
from ..results.records import Outcome
from .scheduler import MEMORY_HINT, Died, Event, Raised, Ready, WorkerFactory, pack, run_tasks, serve, unpack

_CHECK_EVERY = 30.0
"""Seconds without a message after which the node of this process is checked."""


@dataclass(frozen=True)
class OnRay:
    """Runs several tasks at a time, each in a Ray actor with its own copy of the models.

    An actor that is lost, alone or with its node, is replaced, and the rest of its task is run again. Packages, models
    and videos must exist on every node under the same paths. A Ray that this process was already connected to is used
    and left running; one that is started here ends with the run.

    Attributes:
        factory: makes a worker for a device; picklable.
        address: as in `ray.init`: `"host:6379"`, `"auto"`, `"local"`; by default the cluster of `RAY_ADDRESS` or of
            this machine, or else a new one on this machine.
        workers: maximum number of actors; by default one per GPU of the cluster, or two per node without a GPU.
        device: `"cpu"` to use no GPU.

    Raises:
        SweepError: Ray is not installed, or the device is not one that Ray assigns.
    """

    factory: WorkerFactory
    address: str | None = None
    workers: int | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        _ray()
        if self.device not in (None, "cpu", "cuda"):
            raise SweepError(f"Ray assigns a GPU to every worker: leave out the device, got {self.device!r}.")

    def run(self, tasks: Iterable[Task]) -> Generator[Outcome, None, None]:
        """Run the tasks.

        Raises:
            SweepError: there is no cluster at the address, actors cannot be started, Ray dies on this machine, or a
                worker fails outside of any cell.
        """
        factory = pack(self.factory)
        with connected(_ray(), self.address, SweepError):
            resources = _ray().cluster_resources()
            gpus = 0 if self.device == "cpu" else int(resources.get("GPU", 0))
            cpus = int(resources.get("CPU", 1))
            if self.device == "cuda" and not gpus:
                raise SweepError("The Ray cluster has no GPU.")
            workers = self.workers or gpus or _two_per_node()
            threads = max(1, cpus // workers)
            yield from run_tasks(_Pool(factory, self.device, threads, gpus=1 if gpus else 0), workers, tasks)


class _Actor:
    """A worker on a node, polled for one message at a time."""

    def __init__(self, factory: bytes, device: str | None, threads: int) -> None:
        torch.set_num_threads(threads)
        self._tasks: deque[bytes] = deque()
        self._messages = serve(factory, device, iter(self._tasks.popleft, None))

    def step(self, task: bytes | None = None) -> bytes:
        """Return the next message; after each `Ready` a task must be given."""
        if task is not None:
            self._tasks.append(task)
        return next(self._messages)


@dataclass(eq=False)
class _Worker:
    actor: Any
    message: Any


@dataclass(frozen=True)
class _Pool:
    factory: bytes
    device: str | None
    threads: int
    gpus: int

    def start(self, slot: int) -> _Worker:
        actor = (
            _ray()
            .remote(_Actor)
            .options(num_cpus=1, num_gpus=self.gpus, max_restarts=0, scheduling_strategy="SPREAD")
            .remote(self.factory, self.device, self.threads)
        )
        return _Worker(actor, actor.step.remote())

    def send(self, worker: _Worker, task: bytes) -> None:
        worker.message = worker.actor.step.remote(task)

    def wait(self, workers: Collection[_Worker]) -> Iterator[tuple[_Worker, Event]]:
        messages = [worker.message for worker in workers]
        while not (ready := _ray().wait(messages, timeout=_CHECK_EVERY)[0]):
            _check_node()
        for worker in workers:
            if worker.message in ready:
                event = _event(worker.message)
                if event != Ready():
                    worker.message = worker.actor.step.remote()
                yield worker, event

    def end(self, workers: Collection[_Worker]) -> None:
        for worker in workers:
            _ray().kill(worker.actor)


def _event(message: Any) -> Event:
    ray = _ray()
    try:
        return unpack(ray.get(message))
    except ray.exceptions.RayActorError as error:
        if error.actor_init_failed:
            reason = str(error).strip().splitlines()[-1]
            text = f"Ray cannot start a worker; is kvpress-video installed on every node? {reason}"
            return Raised(SweepError(text), str(error))
        return Died(f"was lost by Ray ({type(error).__name__})", MEMORY_HINT)
    except ray.exceptions.RayTaskError as error:
        return Raised(SweepError("A Ray worker failed."), str(error))
    except ray.exceptions.RayError as error:
        return Died(f"was lost by Ray ({type(error).__name__})", MEMORY_HINT)


def _check_node() -> None:
    """Check that Ray still runs on this machine; without it no message would ever arrive."""
    ray = _ray()
    here = ray.get_runtime_context().get_node_id()
    if not any(node["Alive"] for node in ray.nodes() if node["NodeID"] == here):
        raise SweepError("Ray has died on this machine: start it again if you started it, and resume with --resume.")


def _two_per_node() -> int:
    nodes = [node["Resources"] for node in _ray().nodes() if node["Alive"]]
    return max(1, sum(min(2, int(node.get("CPU", 0))) for node in nodes))


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise SweepError("Ray is not installed: pip install 'kvpress-video[ray]'.") from error
    return ray
