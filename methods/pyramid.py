"""Give lower layers larger budgets than higher ones, along a straight line."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from kvpress_video.errors import BudgetError

from ._shares import weighted_budget
from ._wrapper import Wrapper


@dataclass(frozen=True)
class Pyramid(Wrapper):
    """Run any method with budgets that decrease linearly with depth.

    With C entries per layer on average, the last of L layers gets C/`beta`, the first 2·C − C/`beta`, and those between
    lie on a straight line; rounded so that the sum over all layers is exactly C·L. A layer whose budget exceeds the
    entries it has is an error.

    Attributes:
        base: the method to run, a name or an instance.
        beta: ratio of the average budget to that of the last layer, at least 1; 1 for equal budgets.
    """

    beta: float = 20.0

    source: ClassVar[str] = "PyramidKV, Cai et al. 2024, arXiv 2406.02069"
    year: ClassVar[int | None] = 2024
    family: ClassVar[str] = "wrapper"
    fidelity: ClassVar[str] = "mechanism"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.beta < float("inf"):
            raise BudgetError(f"beta must be at least 1, got {self.beta}.")

    def layer_budget(self, keep: int, layer: int, layers: int) -> int:
        """Return the budget of a layer; the budgets of all layers sum to `keep * layers`.

        Raises:
            BudgetError: none of the entries fall to this layer.
        """
        least = 1 / Fraction(str(self.beta))
        step = 2 * (1 - least) / max(1, layers - 1)
        weights = [2 - least - number * step for number in range(layers)] if layers > 1 else [Fraction(1)]
        return weighted_budget(keep, layer, weights, f"beta={self.beta}", "lower beta")
