"""Gaps, which are positions without entries, and the move that closes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from .position_rescaling import Run


class Gap(NamedTuple):
    """Positions without entries, `end` excluded."""

    start: int
    end: int


def joined(gaps: Iterable[Gap]) -> tuple[Gap, ...]:
    """Sort gaps, join adjacent ones, and drop empty ones."""
    found: list[Gap] = []
    for gap in sorted(gap for gap in gaps if gap.end > gap.start):
        if found and gap.start <= found[-1].end:
            found[-1] = Gap(found[-1].start, max(found[-1].end, gap.end))
        else:
            found.append(gap)
    return tuple(found)


def absorbed(runs: Sequence[Run], gaps: Sequence[Gap]) -> tuple[tuple[Run, ...], tuple[Gap, ...]]:
    """Join runs separated only by a gap, including the gap, without moving anything.

    Returns:
        The runs, and the remaining gaps.
    """
    left = {gap.start: gap for gap in gaps}
    found: list[Run] = []
    for run in runs:
        gap = left.get(found[-1].end) if found else None
        if gap is not None and gap.end == run.start:
            found[-1] = Run(found[-1].start, run.end, run.least)
            del left[gap.start]
        else:
            found.append(run)
    return tuple(found), tuple(left.values())


@dataclass(frozen=True)
class Closing:
    """A map of positions, equal in all layers and heads: every position moves down by the width of the gaps before it.

    Runs separated only by a gap are joined; rows and columns of the joined run count from its start (M-RoPE).

    Attributes:
        runs: runs before the move.
        gaps: gaps, ascending.
        spatial: whether rows and columns are separate axes (M-RoPE).
        labelled: whether there is text between the frames of a run; their rows and columns then count from their time.
    """

    runs: Sequence[Run]
    gaps: Sequence[Gap]
    spatial: bool
    labelled: bool = False

    def next_position(self, position: int) -> int:
        """Return the new position of a position; one inside a gap becomes the start of the gap."""
        return position - sum(min(gap.end, position) - gap.start for gap in self.gaps if gap.start < position)

    @cached_property
    def _parts(self) -> list[tuple[Run, int]]:
        """Return each run after the move, and the start of its joined run."""
        parts: list[tuple[Run, int]] = []
        for run in self.runs:
            there = Run(self.next_position(run.start), self.next_position(run.end), run.least)
            follows = bool(parts) and parts[-1][0].end == there.start
            parts.append((there, parts[-1][1] if follows else there.start))
        return parts

    @property
    def moved(self) -> list[Run]:
        """The runs after the move."""
        return list({origin: Run(origin, run.end, run.least) for run, origin in self._parts}.values())

    def __call__(self, positions: Tensor) -> Tensor:
        """Return the new (t, h, w) of old ones, (…, 3) fp32."""
        further = {run.start: origin - there.start for run, (there, origin) in zip(self.runs, self._parts, strict=True)}
        if not self.spatial or self.labelled:
            further = {}
        edges = sorted({gap.end for gap in self.gaps} | {edge for run in self.runs for edge in (run.start, run.end)})
        down = [self.next_position(edge) - edge for edge in edges]
        shifts = [[time, *[time + further.get(edge, 0)] * 2] for edge, time in zip(edges, down, strict=True)]
        table = positions.new_tensor([[0, 0, 0], *shifts])
        region = torch.bucketize(positions[..., 0].contiguous(), positions.new_tensor(edges), right=True)
        return positions + table[region]
