"""Cases of tests over three axes, too many to take all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")


def pairs(first: Sequence[A], second: Sequence[B], third: Sequence[C]) -> list[tuple[A, B, C]]:
    """Return cases in which any two values of two axes meet: all of the two longer axes, the third in turn.

    Raises:
        ValueError: the third axis is longer than another, so that some pairs would not meet.
    """
    if len(third) > min(len(first), len(second)):
        raise ValueError(f"the third axis has {len(third)} values: write the shortest axis last")
    return [(a, b, third[(i + j) % len(third)]) for i, a in enumerate(first) for j, b in enumerate(second)]
