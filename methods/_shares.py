"""Budgets of layers in proportion to weights."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from kvpress_video.errors import BudgetError
from kvpress_video.utils.formatting import plural


def portion(total: int, weights: Sequence[Fraction], number: int) -> int:
    """Return one of the portions that a total is divided into by weights; together they are exactly the total."""
    before, after = (total * sum(weights[:end]) // sum(weights) for end in (number, number + 1))
    return int(after - before)


def weighted_budget(keep: int, layer: int, weights: Sequence[Fraction], rule: str, remedy: str) -> int:
    """Compute the budget of a layer in proportion to its weight; over all layers the budgets sum to keep·layers.

    Args:
        keep: entries that a layer may keep on average.
        layer: index of the layer, from 0.
        weights: weight of each layer.
        rule, remedy: where the weights come from and how to change them, for the error.

    Raises:
        BudgetError: none of the entries fall to this layer.
    """
    mine = portion(keep * len(weights), weights, layer)
    if keep and not mine:
        raise BudgetError(
            f"A budget of {plural(keep, 'entry')} per layer leaves none for layer {layer} under {rule}: "
            f"raise the budget or {remedy}."
        )
    return mine
