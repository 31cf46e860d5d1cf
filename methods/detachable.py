"""Keep recent frames in full and a few entries of each older frame."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor

from kvpress_video.compressor import Compressor, Entries, Grid, Kept, is_visual, make_method, top
from kvpress_video.errors import BudgetError, UnknownNameError
from kvpress_video.utils.formatting import plural

from ._frames import before_window
from ._ranks import rank
from ._wrapper import has_scores


@dataclass(frozen=True)
class Detachable(Compressor):
    """Keep the newest whole frames in a window; of each older frame, its best entries migrate to a bank.

    The budget covers both: the window holds as many whole frames as fit, the bank the rest. When a frame leaves the
    window, its `per_frame` highest-scoring entries move to the bank unchanged; once they exceed the bank, the thinner
    selects those that stay. While the bank has room, further entries of older frames fill it in rounds, one entry per
    frame and round, in order of score within a frame and within a round. Without `per_frame` the bank is always filled
    in this way, so older frames have equal shares and no thinner runs.

    An image, or a video of one frame, belongs to the bank. If frames of the window are no longer whole, the window
    extends to as many older entries as whole frames would have.

    Attributes:
        window: size of the window: a share of the budget (float, up to 1.0) or a number of entries (int).
        bank: capacity of the bank in entries; None for the rest of the budget.
        scorer: method that ranks the entries of a frame, a name or an instance; must implement `scores()`.
        per_frame: entries of each frame that move to the bank; None for equal shares.
        thinner: method that thins a full bank, a name or an instance, and sees it as a segment of its own; None for the
            scorer.
    """

    window: float | int = 0.5
    bank: int | None = None
    scorer: Compressor | str = "standby"
    per_frame: int | None = None
    thinner: Compressor | str | None = None

    source: ClassVar[str] = "after POINTS-Long, arXiv 2604.11627; equal shares, any scorer and any thinner are ours"
    year: ClassVar[int | None] = 2026
    family: ClassVar[str] = "memory"
    fidelity: ClassVar[str] = "mechanism"

    def __post_init__(self) -> None:
        scorer = _part("scorer", self.scorer)
        if not has_scores(scorer):
            raise UnknownNameError(
                f"{type(scorer).__name__} cannot fill a bank: that takes one score per entry. "
                "Choose a scorer such as 'standby', 'novelty', 'van' or 'key-norm'."
            )
        thinner = None if self.thinner is None else _part("thinner", self.thinner)
        if not 0 < self.window <= (1.0 if isinstance(self.window, float) else float("inf")):
            raise BudgetError(f"window is a share up to 1.0 or a number of entries above zero, got {self.window}.")
        for name, limit in (("bank", self.bank), ("per_frame", self.per_frame)):
            if limit is not None and limit < 1:
                raise BudgetError(f"{name} must be at least 1 entry, or None for no limit, got {limit}.")
        if thinner is not None and self.per_frame is None:
            raise BudgetError(
                f"thinner {type(thinner).__name__} would have nothing to do: without per_frame, older frames share the "
                "bank equally. Give per_frame too, the entries that a frame leaves in the bank."
            )
        object.__setattr__(self, "scorer", scorer)
        object.__setattr__(self, "thinner", thinner)
        object.__setattr__(self, "needs", scorer.needs | self._thinner.needs)
        _observer(scorer, self._thinner)  # incompatible needs fail here rather than at the first frame

    @property
    def _scorer(self) -> Compressor:
        assert isinstance(self.scorer, Compressor)
        return self.scorer

    @property
    def _thinner(self) -> Compressor:
        return self.thinner if isinstance(self.thinner, Compressor) else self._scorer

    @property
    def observer(self) -> Compressor:
        """Observer of the scorer, or of the thinner if only the thinner needs captured inputs."""
        return _observer(self._scorer, self._thinner)

    def select(self, entries: Entries, keep: int) -> Tensor:
        """Select the entries that stay: (batch, kv_heads, keep) int64, ascending.

        Raises:
            BudgetError: see `reduce`.
        """
        return self.reduce(entries, keep).slots

    def reduce(self, entries: Entries, keep: int) -> Kept:
        """Keep the window, and the bank as the thinner leaves it.

        Raises:
            BudgetError: the window cannot hold one frame, or window and bank together hold fewer than `keep` entries.
        """
        window = self._window(entries.grid, keep)
        chosen, merged = self._candidates(entries, keep, window), None
        if chosen.shape[-1] > keep - window:
            bank = before_window(entries.gather(chosen), window)
            picked, merged, _ = self._thinner.reduce(bank, keep - window)
            chosen = chosen.gather(-1, picked)
        newest = torch.arange(len(entries) - window, len(entries), device=chosen.device)
        slots = torch.cat([chosen, newest.expand(*chosen.shape[:2], -1)], dim=-1)
        if merged is None:
            return Kept(slots)
        end = entries.slice(len(entries) - window, len(entries))
        return Kept(slots, Entries.join([replace(merged, context=entries.context), end], dim=2))

    def banked(self, entries: Entries) -> int:
        """Count the entries before the window, the same number in every head."""
        grid = entries.context.grid
        if grid is None or grid.frames == 1:
            return len(entries)
        visual = is_visual(entries.kind)
        held = visual.sum(dim=-1, keepdim=True)
        window = self._share(int(held.min()))
        older = held - (window - window % grid.patches)
        return int((visual.cumsum(dim=-1) <= older).sum(dim=-1).min())

    def _candidates(self, entries: Entries, keep: int, window: int) -> Tensor:
        """Select the older entries that are in the bank or move to it, ascending: at least as many as it can hold."""
        older = len(entries) - window
        scores = self._scorer.checked_scores(entries)[..., :older]
        turn = rank(scores, entries.frame[..., :older])
        return top(-turn * older - rank(scores), max(keep - window, self._migrants(entries, keep, window)))

    def _migrants(self, entries: Entries, keep: int, window: int) -> int:
        """Count the older entries that are among the best of their frame, assuming a constant budget.

        Either each older frame still has all of them, or the bank was full before the frames arrived that leave the
        window now. So the count is the same in every head and is known without reading from the device.
        """
        if self.per_frame is None:
            return 0
        patches = entries.grid.patches
        best = min(self.per_frame, patches)
        older, leave = entries.grid.frames - window // patches, -(-(len(entries) - keep) // patches)
        return min(older * best, keep - window + leave * best, len(entries) - window)

    def _window(self, grid: Grid, keep: int) -> int:
        """Compute the entries of the whole frames in the window for a budget of `keep`."""
        share = isinstance(self.window, float)
        window = self._share(keep)
        if self.bank is not None and keep > window + self.bank:
            raise BudgetError(
                f"A budget of {plural(keep, 'entry')} exceeds the window ({window}) and the bank ({self.bank}) "
                f"together: ask for {window + self.bank} or less, or leave bank out."
            )
        if grid.frames == 1:
            return 0
        if window < grid.patches:
            smallest = -(-grid.patches // Fraction(str(self.window))) if share else grid.patches
            cure = f"a budget of {plural(smallest, 'entry')}" if share or keep < smallest else f"window={smallest}"
            raise BudgetError(
                f"A window of {window} of {plural(keep, 'entry')} cannot hold a frame of {grid.patches}: ask for "
                f"{cure} or more."
            )
        return window - window % grid.patches

    def _share(self, keep: int) -> int:
        """Compute the size of the window for a budget of `keep`, not yet rounded to whole frames."""
        if isinstance(self.window, float):
            return int(Fraction(str(self.window)) * keep)
        return min(int(self.window), keep)

    def describe(self) -> dict[str, object]:
        """Return the settings, including those of the scorer and of an explicit thinner."""
        described: dict[str, object] = {"window": self.window, "bank": self.bank, "per_frame": self.per_frame}
        for part, method in (("scorer", self.scorer), ("thinner", self.thinner)):
            described[part] = None
            if isinstance(method, Compressor):
                described |= {part: type(method).__name__, f"{part}_settings": method.describe()}
        return described


def _part(name: str, method: Compressor | str) -> Compressor:
    """Make the scorer or thinner and check that it can work inside this method."""
    made = make_method(method)
    if "cache" not in made.stages:
        raise UnknownNameError(f"{type(made).__name__} does not work in the cache: choose another {name}.")
    if made.fresh or made.recall_share:
        raise UnknownNameError(f"{type(made).__name__} as {name} would read no more than the cache: choose its base.")
    if type(made).layer_budget is not Compressor.layer_budget:
        raise UnknownNameError(
            f"{type(made).__name__} as {name} cannot make layers differ: wrap it around detachable instead."
        )
    return made


def _observer(scorer: Compressor, thinner: Compressor) -> Compressor:
    """Return the method whose capture settings serve both; the rotation has no settings.

    Raises:
        UnknownNameError: each method needs an input that the other does not.
    """
    mine, other = scorer.needs - {"rope"}, thinner.needs - {"rope"}
    if not (other <= mine or mine <= other):
        raise UnknownNameError(
            f"A pass captures inputs for one method only, but the scorer {type(scorer).__name__} needs "
            f"{', '.join(sorted(mine))} and the thinner {type(thinner).__name__} {', '.join(sorted(other))}: "
            "choose a thinner that needs no more than the scorer, such as 'van' or 'novelty'."
        )
    return (scorer if other <= mine else thinner).observer
