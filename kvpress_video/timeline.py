"""Where the frames of a stream stand in positions: time moves them on, text interrupts them, a squeeze moves them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .entries import Grid
from .models.base import Adapter
from .squeeze import Run, Squeeze


@dataclass(frozen=True)
class Moment:
    """Where a frame stands.

    Attributes:
        position: temporal position, a fraction after a squeeze.
        seconds: when it was shown.
        frame: its ordinal in the stream.
    """

    position: float
    seconds: float
    frame: int


@dataclass(frozen=True)
class Timeline:
    """The frames of a stream so far.

    Attributes:
        spatial: whether rows and columns are axes of their own (M-RoPE).
        grid: the frames seen, all of them; None before the first.
        runs: frames that no text interrupts, in positions.
        base: the moment that times of the open run count from; None where text came last.
        last: the last frame.
    """

    spatial: bool
    grid: Grid | None = None
    runs: tuple[Run, ...] = ()
    base: Moment | None = None
    last: Moment | None = None

    @property
    def frames(self) -> int:
        """Frames seen."""
        return self.grid.frames if self.grid else 0

    def extent(self, adapter: Adapter, grid: Grid, seconds: Sequence[float]) -> int:
        """The most positions that further frames take."""
        since = self.last.seconds if self.base and self.last else seconds[0]
        time = adapter.temporal_offsets(grid, [seconds[-1] - since], [grid.frames])[-1]
        return int(time) + (max(grid.rows, grid.columns) if self.spatial else grid.patches) + 2

    def shown(self, adapter: Adapter, grid: Grid, seconds: Sequence[float], start: int) -> tuple[Tensor, Timeline]:
        """Further frames.

        Args:
            adapter: knows how time becomes positions.
            grid: the frames.
            seconds: when each is shown.
            start: where a new run begins.

        Returns:
            (t, h, w) of each visual token, (tokens, 3) fp32, and the timeline that they belong to.
        """
        base = self.base or Moment(start, seconds[0], self.frames)
        origin = self.runs[-1].start if self.base else start
        steps = [self.frames + number - base.frame for number in range(grid.frames)]
        offsets = adapter.temporal_offsets(grid, [time - base.seconds for time in seconds], steps)
        time = (torch.tensor(offsets, dtype=torch.float64) + base.position).repeat_interleave(grid.patches)
        patch = torch.arange(grid.patches).repeat(grid.frames)
        axes = [time, origin + patch // grid.columns, origin + patch % grid.columns]
        positions = torch.stack([axis.float() for axis in (axes if self.spatial else [time + patch] * 3)], dim=-1)
        run = Run(origin, int(positions.max()) + 1, max(grid.rows, grid.columns) if self.spatial else 1)
        seen = self.frames + grid.frames
        last = Moment(float(positions[-grid.patches, 0]), seconds[-1], seen - 1)
        earlier = self.runs[:-1] if self.base else self.runs
        return positions, Timeline(self.spatial, grid._replace(frames=seen), (*earlier, run), base, last)

    def interrupted(self) -> Timeline:
        """Text comes next: frames after it begin another run."""
        return replace(self, base=None)

    def skipped(self, positions: int, seconds: float) -> Timeline:
        """The next frame, shown at `seconds`, stands only so many positions after the last one, however late it is."""
        if self.last is None:
            return self
        return replace(self, base=Moment(self.last.position + positions, seconds, self.frames))

    def squeezed(self, change: Squeeze) -> Timeline:
        """The same after a squeeze."""
        last = self.last and replace(
            self.last, position=float(change(torch.tensor([self.last.position] * 3, dtype=torch.float64))[0])
        )
        return replace(self, runs=tuple(change.moved), last=last, base=last if self.base else None)
