"""Positions of a stream's frames: they advance with time, are interrupted by text, and are moved by rescaling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..compressor.entries import Grid
from ..models.base import Adapter
from .frame_tokens import FrameTokens
from .position_gaps import Closing, Gap, absorbed, joined
from .position_rescaling import Rescaling, Run


@dataclass(frozen=True)
class Moment:
    """Position and time of a frame.

    Attributes:
        position: temporal position, fractional after rescaling.
        seconds: its time.
        frame: its index in the stream.
    """

    position: float
    seconds: float
    frame: int


@dataclass(frozen=True)
class Timeline:
    """The frames of a stream so far.

    Attributes:
        spatial: whether rows and columns are separate axes (M-RoPE).
        grid: all frames seen; None before the first.
        runs: positions of consecutive frames without text in between.
        base: origin of the times of the open run; None if text came last.
        last: the last frame.
        labelled: whether each frame has text with its time: positions then count tokens, independent of time.
        gaps: positions of evicted text, and of earlier runs without remaining entries.
    """

    spatial: bool
    grid: Grid | None = None
    runs: tuple[Run, ...] = ()
    base: Moment | None = None
    last: Moment | None = None
    labelled: bool = False
    gaps: tuple[Gap, ...] = ()

    @property
    def frames(self) -> int:
        """Frames seen."""
        return self.grid.frames if self.grid else 0

    def placed(
        self, adapter: Adapter, tokens: FrameTokens, seconds: Sequence[float], start: int, longest: int | None
    ) -> tuple[Tensor, Timeline]:
        """Add frames: by `counted` if they have labels, else by `shown`."""
        if self.labelled:
            return self.counted(tokens, seconds, start)
        return self.shown(adapter, tokens.grid, seconds, start, longest)

    def shown(
        self, adapter: Adapter, grid: Grid, seconds: Sequence[float], start: int, longest: int | None
    ) -> tuple[Tensor, Timeline]:
        """Add frames without labels.

        Args:
            adapter: adapter of the model, which maps time to positions.
            grid: the frames.
            seconds: time of each frame.
            start: first position of a new run.
            longest: maximum positions of a pause, to which longer ones are cut; None for no limit.

        Returns:
            (t, h, w) of each visual token, (tokens, 3) fp32, and the new timeline.
        """
        base = self.base or Moment(start, seconds[0], self.frames)
        origin = self.runs[-1].start if self.base else start
        steps = [self.frames + number - base.frame for number in range(grid.frames)]
        offsets = adapter.temporal_offsets(grid, [time - base.seconds for time in seconds], steps)
        times = [base.position + offset for offset in offsets]
        if longest is not None:
            before = self.last.position if self.base and self.last else times[0]
            shortened = _without_pauses(times, before, longest)
            if shortened != times:
                base = Moment(shortened[-1], seconds[-1], self.frames + grid.frames - 1)
            times = shortened
        time = torch.tensor(times, dtype=torch.float64).repeat_interleave(grid.patches)
        patch = torch.arange(grid.patches).repeat(grid.frames)
        axes = [time, origin + patch // grid.columns, origin + patch % grid.columns]
        positions = torch.stack([axis.float() for axis in (axes if self.spatial else [time + patch] * 3)], dim=-1)
        end = max(start, int(positions.max()) + 1)
        run = Run(origin, end, max(grid.rows, grid.columns) if self.spatial else 1)
        seen = self.frames + grid.frames
        last = Moment(times[-1], seconds[-1], seen - 1)
        earlier = self.runs[:-1] if self.base else self.runs
        return positions, replace(self, grid=grid._replace(frames=seen), runs=(*earlier, run), base=base, last=last)

    def counted(self, tokens: FrameTokens, seconds: Sequence[float], start: int) -> tuple[Tensor, Timeline]:
        """Add frames with labels, with positions from `start` on.

        Returns:
            (t, h, w) of each of their tokens, (n, 3) fp32, and the new timeline.
        """
        grid = tokens.grid
        positions, end = tokens.counted(start, self.spatial)
        seen = self.frames + grid.frames
        last = Moment(float(positions[tokens.visual][-1, 0]), seconds[-1], seen - 1)
        least = max(grid.rows, grid.columns) + len(tokens.labels[-1].closes) if self.spatial else 1
        run = Run(self.runs[-1].start if self.base else start, end, least)
        earlier = self.runs[:-1] if self.base else self.runs
        grid, base = grid._replace(frames=seen), self.base or last
        return positions, replace(self, grid=grid, runs=(*earlier, run), base=base, last=last)

    def interrupted(self) -> Timeline:
        """Return the timeline before text: later frames begin another run."""
        return replace(self, base=None)

    def without(self, gap: Gap, moves: bool) -> Timeline:
        """Return the timeline after text is evicted.

        Args:
            gap: its positions.
            moves: whether gaps will be closed; if not, runs separated only by gaps are joined.
        """
        return self._with_gaps(self.runs, joined([*self.gaps, gap]), moves)

    def without_empty(self, occupied: Sequence[bool], moves: bool) -> Timeline:
        """Return the timeline without empty runs, except the last.

        Args:
            occupied: whether any entry of each run is held.
            moves: as in `without`.
        """
        stays = [*occupied[:-1], True]
        gone = [Gap(run.start, run.end) for run, here in zip(self.runs, stays, strict=True) if not here]
        runs = tuple(run for run, here in zip(self.runs, stays, strict=True) if here)
        return self._with_gaps(runs, joined([*self.gaps, *gone]), moves)

    def _with_gaps(self, runs: tuple[Run, ...], gaps: tuple[Gap, ...], moves: bool) -> Timeline:
        if not moves and self.base is None:
            runs, gaps = absorbed(runs, gaps)
        return replace(self, runs=runs, gaps=gaps)

    def moved(self, change: Rescaling | Closing) -> Timeline:
        """Return the timeline after rescaling, which requires one without gaps, or after its gaps are closed."""
        last = self.last and replace(
            self.last, position=float(change(torch.tensor([self.last.position] * 3, dtype=torch.float64))[0])
        )
        return replace(self, runs=tuple(change.moved), last=last, base=last if self.base else None, gaps=())


def _without_pauses(times: Sequence[float], before: float, longest: float) -> list[float]:
    """Return positions with steps of at most `longest`."""
    saved, found = 0.0, []
    for time in times:
        saved = max(saved, time - before - longest)
        before = time - saved
        found.append(before)
    return found
