"""Time and memory of work on a device: warmed up, synchronised, interleaved."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any, Protocol, TypeVar

import psutil
import torch
from torch import nn

Work = Callable[[], Any]
Key = TypeVar("Key")
Found = TypeVar("Found")


class Meter(Protocol):
    """A quantity measured between two calls."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> float:
        """The quantity since `start`."""


class WallClock:
    """Elapsed seconds, the device synchronised at both ends."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._started = 0.0

    def start(self) -> None:
        """Start the clock."""
        wait(self._device)
        self._started = time.perf_counter()

    def stop(self) -> float:
        """Seconds since `start`."""
        wait(self._device)
        return time.perf_counter() - self._started


class BusyClock:
    """Seconds of computation: CUDA events on a GPU, else the CPU time of this process, which other processes hardly
    change."""

    def __init__(self, device: torch.device) -> None:
        self._events: list[torch.cuda.Event] = []
        if device.type == "cuda":
            self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        self._started = 0.0

    def start(self) -> None:
        """Start the clock."""
        if self._events:
            self._events[0].record()
        else:
            self._started = time.process_time()

    def stop(self) -> float:
        """Seconds since `start`."""
        if not self._events:
            return time.process_time() - self._started
        before, after = self._events
        after.record()
        after.synchronize()
        return before.elapsed_time(after) / 1e3


class PeakMemory:
    """Most bytes of tensors held at once, beyond those held at the start: `max_memory_allocated` on CUDA, else counted
    by torch's profiler."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._held = 0
        self._profile: Any = None

    def start(self) -> None:
        """Start counting."""
        gc.collect()
        if self._device.type == "cuda":
            wait(self._device)
            self._held = torch.cuda.memory_allocated(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            return
        self._profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)
        self._profile.start()

    def stop(self) -> int:
        """Bytes since `start`."""
        if self._device.type == "cuda":
            wait(self._device)
            return torch.cuda.max_memory_allocated(self._device) - self._held
        self._profile.stop()
        events = [event for event in self._profile.profiler.kineto_results.events() if event.name() == "[memory]"]
        held = most = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            held += event.nbytes()
            most = max(most, held)
        return most


def wait(device: torch.device) -> None:
    """Synchronise the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measured(work: Work, meter: Meter) -> float:
    """Measure one call."""
    meter.start()
    work()
    return meter.stop()


def seconds(work: Work, device: torch.device) -> float:
    """Elapsed seconds of one call."""
    return measured(work, WallClock(device))


def peak_bytes(work: Work, device: torch.device) -> int:
    """Peak memory of one call, in bytes; see `PeakMemory`."""
    return int(measured(work, PeakMemory(device)))


def interleaved(works: Mapping[Key, Callable[[], Found]], rounds: int, warm_up: int = 1) -> dict[Key, list[Found]]:
    """Call each work once per round and collect the results, so that a slow moment of the machine slows them all."""
    found: dict[Key, list[Found]] = {name: [] for name in works}
    for number in range(warm_up + rounds):
        for name, work in works.items():
            one = work()
            if number >= warm_up:
                found[name].append(one)
    return found


def medians(works: Mapping[Key, Work], device: torch.device, rounds: int, warm_up: int = 1) -> dict[Key, float]:
    """Median elapsed seconds of each work, interleaved."""
    timed = {name: partial(seconds, work, device) for name, work in works.items()}
    return {name: median(taken) for name, taken in interleaved(timed, rounds, warm_up).items()}


@contextmanager
def measured_calls(
    module: nn.Module, device: torch.device, meter: Callable[[torch.device], Meter] = WallClock
) -> Iterator[list[float]]:
    """Measure every call of a module, into a list that grows while the context is open."""
    taken: list[float] = []
    running: list[Meter] = []

    def before(*_: Any) -> None:
        running.append(meter(device))
        running[-1].start()

    def after(*_: Any) -> None:
        taken.append(running.pop().stop())

    hooks = module.register_forward_pre_hook(before), module.register_forward_hook(after)
    try:
        yield taken
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def single_thread() -> Iterator[None]:
    """Compute on one CPU thread, so that CPU time is the time of an idle machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def free_bytes(device: torch.device) -> int:
    """Free memory of a device, in bytes."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    available: int = psutil.virtual_memory().available
    return available
