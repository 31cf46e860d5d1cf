"""Give layers different budgets."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from kvpress_video.errors import BudgetError

from ._shares import weighted_budget
from ._wrapper import Wrapper


@dataclass(frozen=True)
class PerLayer(Wrapper):
    """Run any method with budgets that differ by depth.

    `shares` divide the layers into as many equal parts, from first to last, with these relative budgets: (1.5, 0.5)
    gives each layer of the first half three times as many entries as one of the second. Over all layers the budgets sum
    to exactly `keep * layers`. A layer whose budget exceeds the entries it has is an error.

    Attributes:
        base: the method to run, a name or an instance.
        shares: relative budgets from the first layers to the last, positive and finite.
    """

    shares: tuple[float, ...] = (1.5, 0.5)

    source: ClassVar[str] = "wrapper"
    family: ClassVar[str] = "wrapper"
    fidelity: ClassVar[str] = "ours"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.shares or not all(0 < share < float("inf") for share in self.shares):
            raise BudgetError(f"shares must be one or more numbers above zero, got {self.shares}.")
        object.__setattr__(self, "shares", tuple(self.shares))
        object.__setattr__(self, "source", self._base.source)

    def layer_budget(self, keep: int, layer: int, layers: int) -> int:
        """Return the budget of a layer; the budgets of all layers sum to `keep * layers`.

        Raises:
            BudgetError: there are more shares than layers, or none of the entries fall to this layer.
        """
        if len(self.shares) > layers:
            raise BudgetError(f"{len(self.shares)} shares for {layers} layers: give at most one per layer.")
        weights = [Fraction(str(self.shares[number * len(self.shares) // layers])) for number in range(layers)]
        return weighted_budget(keep, layer, weights, f"shares {self.shares}", "make the shares more alike")

    def describe(self) -> dict[str, object]:
        """Return the settings, including those of the base."""
        return super().describe() | {"shares": list(self.shares)}
