"""Benchmarks of time and memory: one program per question, at the size of a laptop or of a 7B model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .results.measurement import Figure
    from .setup.scales import Bed

__all__ = ["BENCHMARKS", "DEFAULT", "program"]

BENCHMARKS = {
    "pass": "compress_pass",
    "stream": "stream",
    "prefill": "prefill",
    "modes": "modes",
    "decode": "decode",
    "steps": "steps",
    "answer": "answer",
    "overhead": "overhead",
    "sweep": "sweep",
    "reading": "reading",
    "frame": "frame",
    "peers": "peers",
}
DEFAULT = tuple(name for name in BENCHMARKS if name not in ("modes", "peers"))
"""Benchmarks to run by default: all but the longest one and the one that needs kvpress."""


def program(name: str) -> Callable[[Bed], Iterator[Figure]]:
    """Return the program of a benchmark, which yields figures as it measures them."""
    run: Callable[[Bed], Iterator[Figure]] = import_module(f"{__name__}.cases.{BENCHMARKS[name]}").run
    return run
