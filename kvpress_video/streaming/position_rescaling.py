"""Fit an endless stream into a finite range of positions by rescaling earlier frames in time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import CacheError


@dataclass(frozen=True)
class Run:
    """Consecutive frames without text in between, in positions.

    Attributes:
        start: position of the first frame; rows and columns count from it (M-RoPE).
        end: the first position after it.
        least: minimum number of positions, for its rows and columns.
    """

    start: int
    end: int
    least: int


@dataclass(frozen=True)
class Rescaling:
    """A map of positions, equal in all layers and heads: time within each run is scaled by one factor, text keeps its
    spacing, and all positions move accordingly.

    Attributes:
        runs: runs before rescaling, ascending, without gaps between them and text.
        factor: factor of a run's time.
        spatial: whether rows and columns are separate axes, which only shift (M-RoPE).
        labelled: whether there is text between the frames of a run; their rows and columns then move with their time.
    """

    runs: Sequence[Run]
    factor: float
    spatial: bool
    labelled: bool = False

    @property
    def moved(self) -> list[Run]:
        """The runs after rescaling."""
        found, saved = [], 0
        for run in self.runs:
            fixed = run.least if self.labelled else 0  # the last frame's rows and columns
            length = max(math.ceil((run.end - run.start - fixed) * self.factor) + fixed, run.least)
            length = min(length, run.end - run.start)
            found.append(Run(run.start - saved, run.start - saved + length, run.least))
            saved += run.end - run.start - length
        return found

    def next_position(self, position: int) -> int:
        """Return the new position of text that would have followed at `position`."""
        return position - self.runs[-1].end + self.moved[-1].end

    def __call__(self, positions: Tensor) -> Tensor:
        """Return the new (t, h, w) of old ones, (…, 3) fp32."""
        after = self.moved
        edges = [edge for run in self.runs for edge in (run.start, run.end)]
        shift = [0, *(new - old for run, to in zip(self.runs, after, strict=True)
                      for old, new in ((run.start, to.start), (run.end, to.end)))]  # fmt: skip
        time = positions[..., 0].contiguous()
        region = torch.bucketize(time, time.new_tensor(edges), right=True)
        moved = positions + positions.new_tensor(shift)[region][..., None]
        inside = region % 2 == 1
        start = time.new_tensor([0, *edges])[region]
        squeezed = (positions - start[..., None]) * (self.factor - 1)
        if self.spatial and self.labelled:
            squeezed = squeezed[..., :1].expand_as(squeezed)
        elif self.spatial:
            squeezed[..., 1:] = 0
        return torch.where(inside[..., None], moved + squeezed, moved)


def occupied(runs: Sequence[Run], times: Iterable[Tensor]) -> list[bool]:
    """Return for each run whether any entry of it is held.

    Args:
        runs: runs, ascending.
        times: temporal positions of the entries held, fp32, in several tensors.
    """
    counts = torch.zeros(2 * len(runs) + 1, dtype=torch.long)
    for time in times:
        edges = time.new_tensor([edge for run in runs for edge in (run.start, run.end)])
        counts += torch.bucketize(time.flatten().contiguous(), edges, right=True).bincount(minlength=len(counts)).cpu()
    return (counts[1::2] > 0).tolist()


def rescale_to(
    runs: Sequence[Run], following: int, wanted: int, spatial: bool, most: int | None = None, labelled: bool = False
) -> Rescaling:
    """Return the rescaling that reduces the next position from `following` to `wanted`, or at least to `most`.

    Raises:
        CacheError: text, and the rows and columns of the runs, take more than `most`.
    """
    taken = sum(run.end - run.start for run in runs)
    least = following - taken + sum(min(run.least, run.end - run.start) for run in runs)
    if not runs or least > (wanted if most is None else most):
        raise CacheError(
            f"The conversation takes {least if runs else following} positions, and {max(wanted, most or 0)} are left "
            "for it: start another one, ask for shorter answers (max_new_tokens), or raise position_limit if the model "
            "was trained for more."
        )
    low, high = 0.0, 1.0
    for _ in range(24):
        factor = (low + high) / 2
        if Rescaling(runs, factor, spatial, labelled).next_position(following) <= max(wanted, least):
            low = factor
        else:
            high = factor
    return Rescaling(runs, low, spatial, labelled)
