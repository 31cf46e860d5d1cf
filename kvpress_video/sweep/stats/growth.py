"""Find methods whose accuracy drops as their budget grows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

from ..formatting import interval
from ..results.records import Row
from .inference import Difference, compare, fall, holm
from .pairing import PairedSamples, levels


@dataclass(frozen=True)
class FallWithBudget:
    """A larger budget at which a method answers fewer questions correctly than at a smaller one.

    Attributes:
        model, benchmark, method: model, benchmark and method of the cells.
        smaller, larger: the budgets.
        difference: accuracy at the larger budget minus that at the smaller one.
        p: one-sided, corrected for all pairs of the method's budgets.
    """

    model: str
    benchmark: str
    method: str
    smaller: str
    larger: str
    difference: Difference
    p: float

    def __str__(self) -> str:
        where = f"{self.method} ({self.model}, {self.benchmark})"
        return f"{where}: {interval(self.difference, '+')} from {self.smaller} to {self.larger}"


def falls_with_budget(rows: Iterable[Row], alpha: float = 0.05) -> list[FallWithBudget]:
    """Find methods whose accuracy drops significantly when their budget grows; return the clearest drop of each.

    Budgets are ordered by the measured ratio of entries that they keep. Any two are compared on the questions that both
    answered, clustered by video; the p of a method's pairs are corrected by Holm's method.

    Args:
        rows: rows of a sweep.
        alpha: level of the tests of one method.

    Raises:
        UnknownNameError: a benchmark is not installed.
    """
    methods: dict[tuple[str, str, str], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        methods[row.cell.model, row.cell.benchmark, row.cell.method][row.cell.budget].append(row)
    found = []
    for name, budgets in methods.items():
        tested = _tested(name, budgets)
        if tested and min(tested, key=lambda each: each.p).p < alpha:
            found.append(min(tested, key=lambda each: (each.p, each.difference.mean)))
    return found


def _tested(name: tuple[str, str, str], budgets: dict[str, list[Row]]) -> list[FallWithBudget]:
    """Compare every two budgets of a method."""
    ordered = sorted(budgets, key=lambda budget: _ratio(budgets[budget]))
    pairs = [
        (smaller, larger, paired)
        for smaller, larger in combinations(ordered, 2)
        if (paired := PairedSamples.of(budgets[larger], budgets[smaller], levels(name[1])))
    ]
    corrected = holm([fall(paired.scores) for _, _, paired in pairs])
    return [
        FallWithBudget(*name, smaller, larger, compare(paired.scores), p)
        for (smaller, larger, paired), p in zip(pairs, corrected, strict=True)
    ]


def _ratio(rows: Sequence[Row]) -> float:
    return fmean(row.measured.report.ratio for row in rows)
