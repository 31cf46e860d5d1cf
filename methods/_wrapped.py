"""A method around another one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kvpress_video.compressor import Compressor, Entries, Kept, make_method
from kvpress_video.errors import BudgetError


@dataclass(frozen=True)
class Wrapped(Compressor):
    """Run another method; a subclass changes what it is given, or how much it may keep.

    Attributes:
        base: the method to run, a name or an instance.
    """

    base: Compressor | str = "key-norm"

    def __post_init__(self) -> None:
        base = make_method(self.base)
        if "cache" not in base.stages:
            raise BudgetError(f"{type(base).__name__} does not work in the cache: choose another base.")
        if type(base).layer_budget is not Compressor.layer_budget:
            raise BudgetError(
                f"{type(base).__name__} as base of {type(self).__name__} cannot make layers differ: wrap it around "
                f"{type(self).__name__} instead."
            )
        object.__setattr__(self, "base", base)
        object.__setattr__(self, "needs", base.needs)

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

    def describe(self) -> dict[str, object]:
        """Return the settings, including those of the base."""
        own = super().describe() | {"base": type(self._base).__name__}
        return {"base": own.pop("base"), "base_settings": self._base.describe(), **own}
