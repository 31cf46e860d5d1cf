"""Seconds and bytes of work on a device: warmed up, synchronised, in turn."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any, TypeVar

import psutil
import torch
from torch import nn

Work = Callable[[], Any]
Key = TypeVar("Key")
Found = TypeVar("Found")


def wait(device: torch.device) -> None:
    """Until the device has done all it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Work, device: torch.device) -> float:
    """Seconds that a piece of work takes, once."""
    wait(device)
    started = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - started


def turns(works: Mapping[Key, Callable[[], Found]], rounds: int, warm_up: int = 1) -> dict[Key, list[Found]]:
    """What pieces of work returned in each round. They take turns, so that what slows the machine slows them all."""
    found: dict[Key, list[Found]] = {name: [] for name in works}
    for number in range(warm_up + rounds):
        for name, work in works.items():
            one = work()
            if number >= warm_up:
                found[name].append(one)
    return found


def medians(works: Mapping[Key, Work], device: torch.device, rounds: int, warm_up: int = 1) -> dict[Key, float]:
    """Median seconds of each piece of work, as they take turns."""
    timed = {name: partial(seconds, work, device) for name, work in works.items()}
    return {name: median(taken) for name, taken in turns(timed, rounds, warm_up).items()}


@contextmanager
def inside(module: nn.Module, device: torch.device) -> Iterator[list[float]]:
    """Seconds of each call of a module, in a list that grows while this lasts."""
    taken: list[float] = []
    started: list[float] = []

    def before(*_: Any) -> None:
        wait(device)
        started.append(time.perf_counter())

    def after(*_: Any) -> None:
        wait(device)
        taken.append(time.perf_counter() - started.pop())

    hooks = module.register_forward_pre_hook(before), module.register_forward_hook(after)
    try:
        yield taken
    finally:
        for hook in hooks:
            hook.remove()


def free_bytes(device: torch.device) -> int:
    """Bytes that are free on a device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    available: int = psutil.virtual_memory().available
    return available


def peak_bytes(work: Work, device: torch.device) -> int:
    """Most bytes of tensors that a piece of work held at once beyond what was held before it.

    On CUDA as `max_memory_allocated` counts them, on a CPU as the profiler of torch does.
    """
    gc.collect()
    if device.type == "cuda":
        wait(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        wait(device)
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    results: Any = profile.profiler
    events = [event for event in results.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most
