"""Give layers different budgets."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from torch import Tensor

from kvpress_video.compressor import Compressor, Entries, Kept, make_method
from kvpress_video.errors import BudgetError


@dataclass(frozen=True)
class PerLayer(Compressor):
    """Run any method with budgets that differ by depth.

    `shares` divide the layers into as many equal parts, from first to last, with these relative budgets: (1.5, 0.5)
    gives each layer of the first half three times as many entries as one of the second. Over all layers the budgets sum
    to exactly `keep * layers`. A layer whose budget exceeds the entries it has is an error.

    Attributes:
        base: the method to run, a name or an instance.
        shares: relative budgets from the first layers to the last, positive and finite.
    """

    base: Compressor | str = "key-norm"
    shares: tuple[float, ...] = (1.5, 0.5)

    source: ClassVar[str] = "wrapper"
    family: ClassVar[str] = "wrapper"
    fidelity: ClassVar[str] = "ours"

    def __post_init__(self) -> None:
        base = make_method(self.base)
        if "cache" not in base.stages:
            raise BudgetError(f"{type(base).__name__} does not work in the cache: choose another base.")
        if not self.shares or not all(0 < share < float("inf") for share in self.shares):
            raise BudgetError(f"shares must be one or more numbers above zero, got {self.shares}.")
        object.__setattr__(self, "base", base)
        object.__setattr__(self, "shares", tuple(self.shares))
        object.__setattr__(self, "needs", base.needs)
        object.__setattr__(self, "source", base.source)

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
        """Return the selection of the base, (batch, kv_heads, keep) int64, ascending."""
        return self._base.select(entries, keep)

    def reduce(self, entries: Entries, keep: int) -> Kept:
        """Reduce the entries with the base."""
        return self._base.reduce(entries, keep)

    def banked(self, entries: Entries) -> int:
        """Return how many entries the base offloads."""
        return self._base.banked(entries)

    def layer_budget(self, keep: int, layer: int, layers: int) -> int:
        """Return the budget of a layer; the budgets of all layers sum to `keep * layers`.

        Raises:
            BudgetError: there are more shares than layers, or none of the entries fall to this layer.
        """
        if len(self.shares) > layers:
            raise BudgetError(f"{len(self.shares)} shares for {layers} layers: give at most one per layer.")
        weights = [Fraction(str(self.shares[number * len(self.shares) // layers])) for number in range(layers)]
        total, whole = keep * layers, sum(weights)
        before, after = (total * sum(weights[:end]) // whole for end in (layer, layer + 1))
        if keep and before == after:
            raise BudgetError(
                f"{keep} entries per layer leave none for layer {layer} under shares {self.shares}: "
                "raise the budget or make the shares more alike."
            )
        return int(after - before)

    def describe(self) -> dict[str, object]:
        """Return the settings, including those of the base."""
        return {"base": type(self._base).__name__, "base_settings": self._base.describe(), "shares": list(self.shares)}
