"""The base of methods that run another method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import Tensor

from kvpress_video.compressor import Compressor, Entries, Kept, make_method, top
from kvpress_video.errors import BudgetError, UnknownNameError


@dataclass(frozen=True)
class Wrapper(Compressor):
    """Run a base method; a wrapper overrides what it changes.

    The base must work in the cache and give every layer, and every KV head of it, the same budget.

    Attributes:
        base: the method to run, a name or an instance.
    """

    base: Compressor | str = "snapkv"

    source: ClassVar[str] = "wrapper"

    def __post_init__(self) -> None:
        base = make_method(self.base)
        name, own = type(base).__name__, type(self).__name__
        if "cache" not in base.stages:
            raise BudgetError(f"{name} does not work in the cache: choose another base.")
        if type(base).layer_budget is not Compressor.layer_budget:
            raise BudgetError(f"{name} makes layers differ and cannot be the base of {own}: wrap it around {own}.")
        if base.uneven:
            raise BudgetError(f"{name} makes heads differ and cannot be the base of {own}: choose another base.")
        object.__setattr__(self, "base", base)
        object.__setattr__(self, "needs", base.needs | type(self).needs)

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

    @property
    def fresh(self) -> int:
        """Return how many frames the base re-encodes."""
        return self._base.fresh

    @property
    def recall_share(self) -> float:
        """Return the fraction of the entries into which the base retrieves frames."""
        return self._base.recall_share

    def recall_margin(self, calibration: Mapping[str, Any]) -> float | None:
        """Return the margin from which on the base brings nothing back."""
        return self._base.recall_margin(calibration)

    def frame_scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Score archived frames as the base does, (frames,) fp32."""
        return self._base.frame_scores(queries, keys)

    def describe(self) -> dict[str, object]:
        """Return the settings, including those of the base."""
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "base"}
        return {"base": type(self._base).__name__, "base_settings": self._base.describe(), **own}


@dataclass(frozen=True)
class ScoreWrapper(Wrapper):
    """Choose by the scores of a base method, which must give each entry one; nothing is merged."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not has_scores(self._base):
            raise UnknownNameError(
                f"{type(self._base).__name__} cannot be the base of {type(self).__name__}: that takes one score per "
                "entry. Choose a base such as 'snapkv', 'van' or 'key-norm'."
            )

    def select(self, entries: Entries, keep: int) -> Tensor:
        """Select the entries that stay: (batch, kv_heads, keep) int64, ascending."""
        return top(self.ranking(entries, keep), keep)

    def reduce(self, entries: Entries, keep: int) -> Kept:
        """Keep the selection; nothing is merged."""
        return Kept(self.select(entries, keep))


def has_scores(method: Compressor) -> bool:
    """Check that a method, and the one that it wraps, gives each entry a score, by which any head may choose alone."""
    return not method.uneven and Compressor.scores not in (type(method).scores, type(method.observer).scores)
