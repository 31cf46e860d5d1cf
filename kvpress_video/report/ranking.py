"""Ranking of methods: the best one at each budget, its statistical ties, and the Pareto front."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import log
from statistics import fmean
from typing import TYPE_CHECKING

from ..budget import UNCOMPRESSED
from ..sweep.stats.summary import OVERALL, summarise

if TYPE_CHECKING:
    from ..sweep.cells import Cell
    from ..sweep.results.records import Row
    from ..sweep.stats.inference import Difference
    from ..sweep.stats.summary import SummaryRow

HEADLINE_RATIO = 0.1
"""The report's first sentence is about the budget closest to this fraction of the cache."""


@dataclass(frozen=True)
class Ranking:
    """The best methods of one group at one budget.

    Attributes:
        best: the row with the highest accuracy; of equal ones the one with the fewest bytes, then the one whose method
            is the most accurate over all budgets.
        second: the next best, if there is one.
        gap: best minus second on the same questions, if they were compared.
        ties: methods whose paired difference from the best is not significant.
        full: the full cache, if it was run.
    """

    best: SummaryRow
    second: SummaryRow | None
    gap: Difference | None
    ties: tuple[str, ...]
    full: SummaryRow | None

    @property
    def tied(self) -> tuple[str, ...]:
        """The best method, and those that tie with it."""
        return (self.best.method, *self.ties)

    @property
    def clear(self) -> bool:
        """Whether the best is significantly better than the second."""
        return self.gap is not None and self.gap.low > 0


def accuracy_of(row: SummaryRow) -> float:
    """Return the overall accuracy of a finished row."""
    return row.accuracies[OVERALL].mean


def finished(summary: Iterable[SummaryRow]) -> list[SummaryRow]:
    """Select the rows with scored answers."""
    return [row for row in summary if OVERALL in row.accuracies]


def compressed(summary: Iterable[SummaryRow]) -> list[SummaryRow]:
    """Select the finished rows of methods that compress."""
    return [row for row in finished(summary) if row.method != UNCOMPRESSED]


def full_cache(summary: Iterable[SummaryRow], group: str) -> SummaryRow | None:
    """Return the finished row of the full cache in a group."""
    return next((row for row in finished(summary) if (row.method, row.group) == (UNCOMPRESSED, group)), None)


def groups_of(summary: Iterable[SummaryRow]) -> list[str]:
    """List the groups, in order."""
    return list(dict.fromkeys(row.group for row in summary))


def budgets_of(summary: Iterable[SummaryRow]) -> dict[str, float]:
    """Return the mean achieved ratio of each budget with compressed rows, largest first."""
    ratios: dict[str, list[float]] = {}
    for row in compressed(summary):
        ratios.setdefault(row.budget, []).append(row.ratio)
    means = {budget: fmean(found) for budget, found in ratios.items()}
    return dict(sorted(means.items(), key=lambda item: -item[1]))


def nearest_budget(budgets: dict[str, float], ratio: float = HEADLINE_RATIO) -> str | None:
    """Return the budget whose achieved ratio is proportionally closest to `ratio`."""
    return min(budgets, key=lambda budget: abs(log(max(budgets[budget], 1e-9) / ratio)), default=None)


def rank(
    summary: Sequence[SummaryRow], group: str, budget: str, against_best: Sequence[SummaryRow] = ()
) -> Ranking | None:
    """Rank the methods of a group at a budget; return None if none has finished.

    Args:
        summary: summary of one model on one benchmark.
        group, budget: group and budget to rank.
        against_best: result of `compare_with_best`, without which no ties are found.
    """
    here = [row for row in compressed(summary) if (row.group, row.budget) == (group, budget)]
    if not here:
        return None
    order = leaders(summary, len(summary))
    here.sort(key=lambda row: (-accuracy_of(row), row.bytes, order.index(row.method)))
    best, *others = here
    key = (best.model, best.benchmark, best.group, best.budget, best.method)
    gaps = {
        row.method: row.difference
        for row in [*summary, *against_best]
        if (row.model, row.benchmark, row.group, row.budget, row.against) == key and row.difference
    }
    ties = tuple(row.method for row in others if row.method in gaps and gaps[row.method].high >= 0)
    second = others[0] if others else None
    gap = gaps.get(second.method) if second else None
    return Ranking(best, second, gap and _negated(gap), ties, full_cache(summary, group))


def _negated(gap: Difference) -> Difference:
    return replace(gap, mean=-gap.mean, low=-gap.high, high=-gap.low)


def pareto_front(summary: Sequence[SummaryRow], cost: Callable[[SummaryRow], float]) -> list[SummaryRow]:
    """Select the rows that no other dominates in accuracy and cost, cheapest first."""
    found: list[SummaryRow] = []
    for row in sorted(summary, key=lambda row: (cost(row), -accuracy_of(row))):
        if not found or accuracy_of(row) > accuracy_of(found[-1]):
            found.append(row)
    return found


def leaders(summary: Sequence[SummaryRow], most: int = 6) -> list[str]:
    """Return the `most` methods with the highest mean accuracy over all budgets; all if at most two more exist."""
    means: dict[str, list[float]] = {}
    for row in compressed(summary):
        means.setdefault(row.method, []).append(accuracy_of(row))
    names = sorted(means, key=lambda name: -fmean(means[name]))
    return names if len(names) <= most + 2 else names[:most]


def compare_with_best(summary: Sequence[SummaryRow], rows: Iterable[Row], cells: Sequence[Cell]) -> list[SummaryRow]:
    """Summarise a sweep again, against the best method of each group at each budget.

    Args:
        summary: summary of the sweep.
        rows, cells: rows and cells of the sweep.
    """
    by_budget: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        by_budget.setdefault((row.cell.model, row.cell.benchmark, row.cell.budget), []).append(row)
    found = []
    for (model, benchmark, budget), mine in by_budget.items():
        suite = [each for each in summary if (each.model, each.benchmark) == (model, benchmark)]
        for group in groups_of(suite):
            ranking = rank(suite, group, budget)
            if ranking is None or ranking.second is None:
                continue
            grouped = [row for row in mine if row.measured.group == group]
            asked = [cell for cell in cells if (cell.model, cell.benchmark, cell.budget) == (model, benchmark, budget)]
            found += summarise(grouped, (), asked, ranking.best.method)
    return found
