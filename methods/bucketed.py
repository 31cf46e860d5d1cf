"""Keep what a base method scores highest, spread over the whole video."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kvpress_video.compressor import Compressor, Entries, make_method, top
from kvpress_video.errors import BudgetError, UnknownNameError

from ._ranks import rank


@dataclass(frozen=True)
class Bucketed(Compressor):
    """Keep the best entries wherever they are, and of the others only as many as fit into buckets of positions.

    The tokens of the segment seen so far are divided in order into ⌈keep / capacity⌉ equal buckets. The ⌊free·keep⌋
    highest scores of the base stay; then the others in order of score, as long as fewer than `capacity` entries of
    their bucket stay. If the buckets leave room, as those of evicted tokens do, the highest remaining scores fill it.

    Attributes:
        base: method that scores the entries, a name or an instance; must implement `scores()`.
        free: share of the budget that no bucket limits, 0 to 1.
        capacity: entries of a bucket, at least 1.
    """

    base: Compressor | str = "snapkv"
    free: float = 0.5
    capacity: int = 1

    source: ClassVar[str] = "after LiveVLM v2, arXiv 2505.15269"

    def __post_init__(self) -> None:
        base = make_method(self.base)
        if Compressor.scores in (type(base).scores, type(base.observer).scores):
            raise UnknownNameError(
                f"{type(base).__name__} cannot fill buckets: that takes one score per entry. "
                "Choose a base such as 'snapkv', 'evs', 'van' or 'key-norm'."
            )
        if not 0 <= self.free <= 1:
            raise BudgetError(f"free is a share of the budget between 0 and 1, got {self.free}.")
        if self.capacity < 1:
            raise BudgetError(f"capacity must be at least 1 entry, got {self.capacity}.")
        object.__setattr__(self, "base", base)
        for name in ("needs", "stages"):
            object.__setattr__(self, name, getattr(base, name))

    @property
    def _base(self) -> Compressor:
        assert isinstance(self.base, Compressor)
        return self.base

    @property
    def observer(self) -> Compressor:
        """Observer of the base."""
        return self._base.observer

    def scores(self, entries: Entries) -> Tensor:
        """Return the scores of the base, (batch, kv_heads, n)."""
        return self._base.scores(entries)

    def select(self, entries: Entries, keep: int) -> Tensor:
        """Select the entries that stay: (batch, kv_heads, keep) int64, ascending."""
        place = rank(self.checked_scores(entries))
        buckets = max(1, -(-keep // self.capacity))
        token = entries.frame.long() * entries.grid.patches + entries.patch
        within = rank(-place, token * buckets // entries.grid.tokens)
        turn = torch.where(place < int(self.free * keep), 2, (within < self.capacity).long())
        return top(turn * len(entries) - place, keep)

    def banked(self, entries: Entries) -> int:
        """Return how many entries the base offloads."""
        return self._base.banked(entries)

    def layer_budget(self, keep: int, layer: int, layers: int) -> int:
        """Return the base's budget of a layer."""
        return self._base.layer_budget(keep, layer, layers)

    def describe(self) -> dict[str, object]:
        """Return the settings, including those of the base."""
        described = {"base": type(self._base).__name__, "base_settings": self._base.describe()}
        return {**described, "free": self.free, "capacity": self.capacity}
