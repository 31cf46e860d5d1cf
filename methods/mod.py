"""Let most visual tokens skip some of the layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import ClassVar

from kvpress_video.compressor import Compressor, Routing, make_method
from kvpress_video.errors import BudgetError, UnknownNameError, unknown_name
from kvpress_video.utils.numbers import is_whole

from ._shares import weighted_budget
from ._wrapper import Wrapper, has_scores

PLACEMENTS: Mapping[str, Callable[[int], range]] = MappingProxyType(
    {
        "interleaved": lambda layers: range(1, layers, 2),
        "all": lambda layers: range(1, layers),
        "deep": lambda layers: range(max(1, layers // 2), layers),
        "interleaved-deep": lambda layers: range(layers // 2 + 1, layers, 2),
    }
)
"""Layers that tokens skip, by name, for a number of layers."""
_SETTINGS = frozenset({"queries", "probe", "vision_attention"})  # needs with settings, which one method states


@dataclass(frozen=True)
class MoD(Wrapper):
    """Mixture of depths: in some layers only a share of the visual tokens runs through attention and feed-forward.

    The others keep their hidden state there and write no keys and values. A router chooses the tokens of each video or
    image by its scores in the latest layer before that all tokens run through, averaged over heads. Of the budget each
    of these layers gets `keep` times what any other layer gets; within its budget a layer keeps the selection of the
    base. The largest budget is that with which the other layers keep everything.

    Attributes:
        base: method that evicts from the cache, a name or an instance.
        keep: share of the visual tokens that runs through the layers, rounded up; above 0, at most 1.
        layers: the layers: `"interleaved"`, every other one from the second; `"all"` after the first; `"deep"`, the
            second half; `"interleaved-deep"`, every other one of the second half; or their indices, from 1.
        router: method that scores the tokens, a name or an instance, such as `"van"`, `"snapkv"` (attention of the last
            queries) or `"random"`.
    """

    base: Compressor | str = "infinipot-v"
    keep: float = 0.2
    layers: str | tuple[int, ...] = "interleaved"
    router: Compressor | str = "van"

    source: ClassVar[str] = "after VideoLLM-MoD, Wu et al. 2024, arXiv 2408.16730; routers without training are ours"
    year: ClassVar[int | None] = 2024
    family: ClassVar[str] = "wrapper"
    fidelity: ClassVar[str] = "analogy"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.keep <= 1:
            raise BudgetError(f"keep is a share above 0 and at most 1, got {self.keep}.")
        if isinstance(self.layers, str) and self.layers not in PLACEMENTS:
            raise unknown_name("placement of layers", self.layers, PLACEMENTS)
        if not isinstance(self.layers, str):
            object.__setattr__(self, "layers", _checked(self.layers))
        router = make_method(self.router)
        if "cache" not in router.stages or not has_scores(router):
            raise UnknownNameError(
                f"{type(router).__name__} cannot be a router: that takes one score per entry. Choose one such as "
                "'van', 'snapkv' or 'random'."
            )
        object.__setattr__(self, "router", router)
        object.__setattr__(self, "needs", self.needs | router.needs)
        if self._base.needs & _SETTINGS and router.needs & _SETTINGS and self._base.observer != router.observer:
            raise BudgetError(
                f"{type(self._base).__name__} and {type(router).__name__} need inputs with settings of their own: use "
                "the same method as base and router, or one that looks at keys and values only."
            )

    @property
    def observer(self) -> Compressor:
        """Observer of the router or of the base, whichever states how inputs are captured."""
        assert isinstance(self.router, Compressor)
        return self.router.observer if self.router.needs & _SETTINGS else self._base.observer

    def skipped(self, layers: int) -> range | tuple[int, ...]:
        """Return the layers that tokens skip.

        Raises:
            BudgetError: there are none, or not as many layers.
        """
        where = PLACEMENTS[self.layers](layers) if isinstance(self.layers, str) else self.layers
        if not where or where[-1] >= layers:
            raise BudgetError(
                f"layers={self.layers!r} fits no model of {layers} layers: choose layers from 1 to {layers - 1}."
            )
        return where

    def routing(self, layers: int) -> Routing:
        """Return the share of the visual tokens that runs through each layer, and the router."""
        assert isinstance(self.router, Compressor)
        return Routing(self._weights(layers), self.router)

    def layer_budget(self, keep: int, layer: int, layers: int) -> int:
        """Return the budget of a layer; the budgets of all layers sum to `keep * layers`.

        Raises:
            BudgetError: none of the entries fall to this layer.
        """
        return weighted_budget(keep, layer, self._weights(layers), f"keep={self.keep}", "raise keep")

    def describe(self) -> dict[str, object]:
        """Return the settings, including those of the base and the router."""
        assert isinstance(self.router, Compressor)
        router = {"router": type(self.router).__name__, "router_settings": self.router.describe()}
        return {**super().describe(), **router}

    def _weights(self, layers: int) -> tuple[Fraction, ...]:
        where = self.skipped(layers)
        return tuple(Fraction(str(self.keep)) if number in where else Fraction(1) for number in range(layers))


def _checked(layers: object) -> tuple[int, ...]:
    numbers = tuple(layers) if isinstance(layers, tuple | list) else ()
    if not numbers or not all(is_whole(number) and number >= 1 for number in numbers):
        raise BudgetError(f"layers must be a placement or indices of layers from 1, such as (1, 3), got {layers!r}.")
    return tuple(sorted(set(numbers)))
