"""The error for a budget that allocates more entries to a layer than the frames have."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence

from ..budget import Budget
from ..compressor.base import Compressor
from ..compressor.registry import name_of
from ..errors import BudgetError


def overfull_layer(
    method: Compressor,
    budget: Budget,
    by_layer: Callable[[int], Sequence[int]],
    layer: int,
    available: int,
    seen: int,
) -> BudgetError:
    """Build the error, which names the largest budget that the method can spread.

    Args:
        method: the method, which allocates the budget.
        budget: a ratio, or a number of entries.
        by_layer: returns the budget of every layer, for an average in entries.
        layer: index of the layer with too many.
        available: frame entries that a layer holds.
        seen: frame tokens that the ratio refers to.
    """
    asked = int(budget.amount) if budget.unit == "tokens" else budget.entries(seen)
    most = bisect_right(range(1, asked), available, key=lambda average: _highest(by_layer, average))
    ratio = 1000 * most // seen / 1000
    largest = Budget(ratio, "ratio") if budget.unit == "ratio" and ratio else Budget(max(1, most), "tokens")
    return BudgetError(
        f"{name_of(method)} at {budget} would give layer {layer} {by_layer(asked)[layer]} entries, but the frames "
        f"have {available}: ask for at most {largest}, or spread the budget more evenly."
    )


def _highest(by_layer: Callable[[int], Sequence[int]], average: int) -> int:
    """Return the largest budget of any layer; 0 for an average that the method refuses as too small."""
    try:
        return max(by_layer(average))
    except BudgetError:
        return 0
