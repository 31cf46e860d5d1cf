"""What compression costs and saves: one program per figure, at the size of a laptop or of a 7B model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module

from .results.measurement import Figure, Goal
from .setup.scales import SCALES, Bed, bed

__all__ = ["BENCHMARKS", "SCALES", "Bed", "Figure", "Goal", "bed", "program"]

BENCHMARKS = {
    "pass": "compress_pass",
    "stream": "stream",
    "prefill": "prefill",
    "decode": "decode",
    "answer": "answer",
    "overhead": "overhead",
    "sweep": "sweep",
}


def program(name: str) -> Callable[[Bed], Iterator[Figure]]:
    """The program of a benchmark: it yields figures as it measures them."""
    run: Callable[[Bed], Iterator[Figure]] = import_module(f"{__name__}.cases.{BENCHMARKS[name]}").run
    return run
