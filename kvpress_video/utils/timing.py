"""Seconds spent on a device, without making it wait until they are read."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class DeviceTimer:
    """Adds up stretches of work by name: on the device's own clock where it is a GPU, else on the wall's."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: dict[str, float] = defaultdict(float)
        self._events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = defaultdict(list)

    @contextmanager
    def timing(self, what: str) -> Iterator[None]:
        """Count what happens inside."""
        if self._device.type == "cuda":
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record(torch.cuda.current_stream(self._device))
            yield
            after.record(torch.cuda.current_stream(self._device))
            self._events[what].append((before, after))
        else:
            started = time.perf_counter()
            yield
            self._seconds[what] += time.perf_counter() - started

    def take(self, what: str) -> float:
        """The seconds counted under a name since they were last taken; waits for the device."""
        events = self._events.pop(what, [])
        if events:
            events[-1][1].synchronize()
        return self._seconds.pop(what, 0.0) + sum(before.elapsed_time(after) / 1e3 for before, after in events)

    def clear(self) -> None:
        """Forget what was counted."""
        self._seconds.clear()
        self._events.clear()
