"""Timing of work on a device, which waits for the device only when times are read."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class DeviceTimer:
    """Accumulates the seconds of work by name, measured by GPU events or else by the wall clock."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: dict[str, float] = defaultdict(float)
        self._events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = defaultdict(list)

    @contextmanager
    def timing(self, what: str) -> Iterator[None]:
        """Context manager that times its block."""
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
        """Return the seconds under a name since the last call; waits for the device."""
        events = self._events.pop(what, [])
        if events:
            events[-1][1].synchronize()
        return self._seconds.pop(what, 0.0) + sum(before.elapsed_time(after) / 1e3 for before, after in events)

    def clear(self) -> None:
        """Reset all times."""
        self._seconds.clear()
        self._events.clear()
