"""Keep recent frames in full, older ones as a few entries each."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor

from kvpress_video.compressor import Compressor, top
from kvpress_video.entries import Entries, Grid
from kvpress_video.errors import BudgetError, UnknownNameError
from kvpress_video.registry import make_method


@dataclass(frozen=True)
class Detachable(Compressor):
    """Keep the newest whole frames in a window; of each older frame, its best entries migrate to a bank.

    The budget holds both. As the window moves on, the frames that leave it are reduced by the scorer to equal quotas:
    the best entry of every older frame comes before the second best of any, and so on; within one such round the
    higher score wins. So a bank smaller than the number of older frames holds the best of their best entries.
    An image, or the first frame of a video, is one frame: the scorer ranks it as the bank's.

    Attributes:
        window: the window's share of the budget (float, up to 1.0), or its entries (int); it holds as many whole
            frames as fit, and what they leave over goes to the bank.
        bank: the most entries that the bank may hold (int); the rest of the budget when None.
        scorer: any method that scores entries, by name or made; what it needs is captured.
        per_frame: the most entries an older frame may leave in the bank; no limit when None.
    """

    window: float | int = 0.5
    bank: int | None = None
    scorer: Compressor | str = "standby"
    per_frame: int | None = None

    source: ClassVar[str] = "after POINTS-Long, arXiv 2604.11627; quotas, thinning and any scorer are ours"

    def __post_init__(self) -> None:
        scorer = make_method(self.scorer)
        if type(scorer).scores is Compressor.scores:
            raise UnknownNameError(
                f"{type(scorer).__name__} cannot fill a bank: that takes one score per entry. "
                "Choose a scorer such as 'standby', 'novelty', 'van' or 'key-norm'."
            )
        if self.window <= 0 or (isinstance(self.window, float) and self.window > 1):
            raise BudgetError(f"window is a share up to 1.0 or a number of entries above zero, got {self.window}.")
        for name, limit in (("bank", self.bank), ("per_frame", self.per_frame)):
            if limit is not None and limit < 1:
                raise BudgetError(f"{name} must be at least 1 entry, or None for no limit, got {limit}.")
        object.__setattr__(self, "scorer", scorer)
        object.__setattr__(self, "needs", scorer.needs)

    @property
    def _scorer(self) -> Compressor:
        assert isinstance(self.scorer, Compressor)
        return self.scorer

    @property
    def observer(self) -> Compressor:
        """The scorer's."""
        return self._scorer.observer

    def select(self, entries: Entries, keep: int) -> Tensor:
        """Which entries stay: (batch, kv_heads, keep) int64, ascending.

        Raises:
            BudgetError: the window cannot hold one frame, or window and bank cannot be filled to exactly `keep`.
        """
        in_full = self._frames_in_full(entries.grid, keep)
        scores = self._scorer.scores(entries)
        in_window = entries.frame >= entries.grid.frames - in_full
        turn = _rank(scores, entries.frame).masked_fill(in_window, -1)
        if self.per_frame is not None:
            self._check_filled(turn, keep)
        return top(-turn * len(entries) - _rank(scores), keep)

    def _frames_in_full(self, grid: Grid, keep: int) -> int:
        """Whole frames that the window holds of a budget of `keep`."""
        share = isinstance(self.window, float)
        window = int(Fraction(str(self.window)) * keep) if share else min(int(self.window), keep)
        if self.bank is not None and keep > window + self.bank:
            raise BudgetError(
                f"A budget of {keep} entries is more than the window ({window}) and the bank ({self.bank}) hold: "
                f"ask for {window + self.bank} or less, or leave bank out."
            )
        if grid.frames == 1:
            return 0
        if window < grid.patches:
            smallest = -(-grid.patches // Fraction(str(self.window))) if share else grid.patches
            cure = f"a budget of {smallest} entries" if share or keep < smallest else f"window={smallest}"
            raise BudgetError(
                f"A window of {window} of {keep} entries cannot hold a frame of {grid.patches}: ask for {cure} or more."
            )
        return window // grid.patches

    def _check_filled(self, turn: Tensor, keep: int) -> None:
        """Only with `per_frame`: reads one flag back from the device."""
        assert self.per_frame is not None
        usable = (turn < self.per_frame).sum(dim=-1)
        if bool((usable < keep).any()):
            raise BudgetError(
                f"per_frame={self.per_frame} leaves only {int(usable.min())} entries to fill a budget of {keep}: "
                "raise per_frame, leave it out, or ask for a smaller budget."
            )

    def describe(self) -> dict[str, object]:
        """The settings, with those of the scorer."""
        own = {"window": self.window, "bank": self.bank, "per_frame": self.per_frame}
        return {**own, "scorer": type(self._scorer).__name__, "scorer_settings": self._scorer.describe()}


def _rank(scores: Tensor, groups: Tensor | None = None) -> Tensor:
    """Place of each entry among those of its group, 0 for the highest score; of equal scores the earlier entry first.

    Args:
        scores, groups: (batch, kv_heads, n); one group when None.
    """
    order = scores.argsort(dim=-1, descending=True, stable=True)
    place = torch.arange(scores.shape[-1], device=scores.device).expand_as(order)
    if groups is not None:
        order = order.gather(-1, groups.gather(-1, order).argsort(dim=-1, stable=True))
        sorted_groups = groups.gather(-1, order)
        first = torch.ones_like(order, dtype=torch.bool)
        first[..., 1:] = sorted_groups[..., 1:] != sorted_groups[..., :-1]
        place = place - torch.where(first, place, 0).cummax(dim=-1).values
    return torch.empty_like(order).scatter(-1, order, place)
