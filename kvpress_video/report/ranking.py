"""Who wins: the best method at each budget, what it cannot be told from, and what no other beats at less cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import log
from statistics import fmean
from typing import TYPE_CHECKING

from ..compressor.registry import UNCOMPRESSED
from ..sweep.stats.summary import OVERALL, summarise

if TYPE_CHECKING:
    from ..sweep.cells import Cell
    from ..sweep.results.records import Row
    from ..sweep.stats.inference import Difference
    from ..sweep.stats.summary import SummaryRow

NEAR = 0.1
"""The share of the cache that the page's first sentence is about."""


@dataclass(frozen=True)
class Ranking:
    """What one budget shows in one group.

    Attributes:
        best: the line with the highest accuracy; of equal ones the one that holds the fewest bytes, then the one whose
            method is the most accurate over all budgets and groups.
        second: the next best, if there is one.
        gap: the best over the second on the same questions, where they were compared.
        ties: methods that were compared with the best on the same questions and could not be told from it.
        whole: the full cache, where it was run.
    """

    best: SummaryRow
    second: SummaryRow | None
    gap: Difference | None
    ties: tuple[str, ...]
    whole: SummaryRow | None

    @property
    def clear(self) -> bool:
        """Whether the best is told from the second."""
        return self.gap is not None and self.gap.low > 0


def accuracy_of(line: SummaryRow) -> float:
    """Overall accuracy of a line that has one."""
    return line.accuracies[OVERALL].mean


def finished(lines: Iterable[SummaryRow]) -> list[SummaryRow]:
    """Lines with answers that were scored."""
    return [line for line in lines if OVERALL in line.accuracies]


def compressed(lines: Iterable[SummaryRow]) -> list[SummaryRow]:
    """Finished lines of methods that compress."""
    return [line for line in finished(lines) if line.method != UNCOMPRESSED]


def whole_of(lines: Iterable[SummaryRow], group: str) -> SummaryRow | None:
    """The full cache in a group."""
    return next((line for line in finished(lines) if (line.method, line.group) == (UNCOMPRESSED, group)), None)


def groups_of(lines: Iterable[SummaryRow]) -> list[str]:
    """Groups, in order."""
    return list(dict.fromkeys(line.group for line in lines))


def budgets_of(lines: Iterable[SummaryRow]) -> dict[str, float]:
    """The mean achieved ratio of each budget that something was compressed to, largest first."""
    ratios: dict[str, list[float]] = {}
    for line in compressed(lines):
        ratios.setdefault(line.budget, []).append(line.ratio)
    means = {budget: fmean(found) for budget, found in ratios.items()}
    return dict(sorted(means.items(), key=lambda item: -item[1]))


def nearest_budget(budgets: dict[str, float], ratio: float = NEAR) -> str | None:
    """The budget whose achieved ratio is nearest to `ratio`, in proportion."""
    return min(budgets, key=lambda budget: abs(log(max(budgets[budget], 1e-9) / ratio)), default=None)


def rank(lines: Sequence[SummaryRow], group: str, budget: str, rivals: Sequence[SummaryRow] = ()) -> Ranking | None:
    """Who wins in a group at a budget; None where nothing was finished.

    Args:
        lines: of one model on one benchmark.
        rivals: lines `against` the best ones, which say what the intervals can tell.
    """
    here = [line for line in compressed(lines) if (line.group, line.budget) == (group, budget)]
    if not here:
        return None
    order = leaders(lines, len(lines))
    here.sort(key=lambda line: (-accuracy_of(line), line.bytes, order.index(line.method)))
    best, *others = here
    place = (best.model, best.benchmark, best.group, best.budget, best.method)
    gaps = {
        line.method: line.difference
        for line in [*lines, *rivals]
        if (line.model, line.benchmark, line.group, line.budget, line.against) == place and line.difference
    }
    ties = tuple(line.method for line in others if line.method in gaps and gaps[line.method].high >= 0)
    second = others[0] if others else None
    gap = gaps.get(second.method) if second else None
    return Ranking(best, second, gap and _turned(gap), ties, whole_of(lines, group))


def _turned(gap: Difference) -> Difference:
    return replace(gap, mean=-gap.mean, low=-gap.high, high=-gap.low)


def front(lines: Sequence[SummaryRow], cost: Callable[[SummaryRow], float]) -> list[SummaryRow]:
    """Lines that no other beats: none is as accurate at less cost, or more accurate at the same. Cheapest first."""
    found: list[SummaryRow] = []
    for line in sorted(lines, key=lambda line: (cost(line), -accuracy_of(line))):
        if not found or accuracy_of(line) > accuracy_of(found[-1]):
            found.append(line)
    return found


def leaders(lines: Sequence[SummaryRow], most: int = 6) -> list[str]:
    """The methods with the highest accuracy over all budgets; all of them where they are few."""
    means: dict[str, list[float]] = {}
    for line in compressed(lines):
        means.setdefault(line.method, []).append(accuracy_of(line))
    names = sorted(means, key=lambda name: -fmean(means[name]))
    return names if len(names) <= most + 2 else names[:most]


def rivals(lines: Sequence[SummaryRow], rows: Iterable[Row], cells: Sequence[Cell]) -> list[SummaryRow]:
    """Lines `against` the best method of each group at each budget, for `rank`.

    Args:
        lines: of the sweep.
        rows, cells: that they sum up.
    """
    at: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        at.setdefault((row.cell.model, row.cell.benchmark, row.cell.budget), []).append(row)
    found = []
    for (model, benchmark, budget), mine in at.items():
        side = [line for line in lines if (line.model, line.benchmark) == (model, benchmark)]
        for group in groups_of(side):
            here = rank(side, group, budget)
            if here is None or here.second is None:
                continue
            grouped = [row for row in mine if row.measured.group == group]
            asked = [cell for cell in cells if (cell.model, cell.benchmark, cell.budget) == (model, benchmark, budget)]
            found += summarise(grouped, (), asked, here.best.method)
    return found
