"""Base class of methods that let visual tokens skip layers."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from fractions import Fraction

from kvpress_video.compressor import Compressor, Routing, make_method
from kvpress_video.errors import BudgetError, UnknownNameError

from ._shares import weighted_budget
from ._wrapper import Wrapper, has_scores

_SETTINGS = frozenset({"queries", "probe", "vision_attention"})  # needs with settings, which a single method provides


@dataclass(frozen=True)
class Skipping(Wrapper):
    """Run only part of the visual tokens through some layers, which a subclass defines by `skipped` and `thin`.

    Attributes:
        base: method that evicts from the cache, a name or an instance.
        keep: fraction of the visual tokens that run through the layers, rounded up; above 0, at most 1.
        router: method that scores the tokens, a name or an instance.
    """

    base: Compressor | str = "infinipot-v"
    keep: float = 0.2
    router: Compressor | str = "van"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.keep <= 1:
            raise BudgetError(f"keep is a share above 0 and at most 1, got {self.keep}.")
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
    def _router(self) -> Compressor:
        assert isinstance(self.router, Compressor)
        return self.router

    @property
    def observer(self) -> Compressor:
        """Observer of the router or the base, whichever configures the capture of inputs."""
        return self._router.observer if self._router.needs & _SETTINGS else self._base.observer

    def skipped(self, layers: int) -> Collection[int]:
        """Return the layers that tokens skip."""
        raise NotImplementedError

    def thin(self, layers: int) -> Collection[int]:
        """Return the layers whose budgets are `keep` times those of the others; by default those that tokens skip."""
        return self.skipped(layers)

    def routing(self, layers: int) -> Routing:
        """Return the share of the visual tokens that runs through each layer, and the router."""
        return Routing(self._weights(self.skipped(layers), layers), self._router)

    def layer_budget(self, keep: int, layer: int, layers: int) -> int:
        """Return the budget of a layer; the budgets of all layers sum to `keep * layers`.

        Raises:
            BudgetError: the layer would get no entries.
        """
        weights = self._weights(self.thin(layers), layers)
        return weighted_budget(keep, layer, weights, f"keep={self.keep}", "raise keep")

    def describe(self) -> dict[str, object]:
        """Return the settings, including those of the base and the router."""
        router = {"router": type(self._router).__name__, "router_settings": self._router.describe()}
        return {**super().describe(), **router}

    def _weights(self, where: Collection[int], layers: int) -> tuple[Fraction, ...]:
        return tuple(Fraction(str(self.keep)) if number in where else Fraction(1) for number in range(layers))
