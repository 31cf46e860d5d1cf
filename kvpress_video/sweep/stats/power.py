"""Number of videos needed to detect a difference, from the variance over the answered videos of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from scipy import stats

from ...errors import SweepError
from ...utils.formatting import plural
from ..formatting import short
from .inference import Difference, needed
from .summary import SummaryRow

ASSURANCE = 0.8
"""Probability that the upper number of videos suffices: a variance estimated from few videos may be too small."""


@dataclass(frozen=True)
class VideosNeeded:
    """The videos that one method at one budget needs.

    Attributes:
        row: row of the summary.
        videos: number by the observed variance of the paired difference; None if it cannot be estimated.
        most: number by the upper limit of that variance (`ASSURANCE`, one-sided).
    """

    row: SummaryRow
    videos: int | None
    most: int | None


def videos_needed(summary: Sequence[SummaryRow], difference: float) -> list[VideosNeeded]:
    """Compute how many videos each method and budget needs to show a difference from the summary's reference.

    Args:
        summary: summary of a sweep, finished or not.
        difference: difference of accuracies, above 0 and below 1.

    Raises:
        SweepError: no method was answered along with the reference, or only on one video.
    """
    found = [
        VideosNeeded(row, needed(row.difference, difference), needed(_cautious(row.difference), difference))
        for row in summary
        if row.difference is not None
    ]
    if not found:
        raise SweepError(
            "The number of videos cannot be estimated: no method shares answers with the method it is compared with. "
            "Add that method to the sweep, or choose another with --against."
        )
    if all(each.row.difference is None or each.row.difference.clusters < 2 for each in found):
        raise SweepError(
            "The number of videos cannot be estimated from one video, which shows no variance between videos: run the "
            "sweep on at least two, or choose an output folder without a sweep for a pilot."
        )
    return found


def power_tables(found: Sequence[VideosNeeded]) -> list[Table]:
    """Build a table per model, benchmark and group: methods in rows, budgets in columns, numbers of videos in cells."""
    made = []
    for part in _parts(found):
        budgets = list(dict.fromkeys(each.row.budget for each in part))
        by_cell = {(each.row.method, each.row.budget): each for each in part}
        table = Table(title=escape(part[0].row.place), title_justify="left", title_style="bold", box=SIMPLE_HEAD)
        table.add_column("videos needed", no_wrap=True)
        for budget in budgets:
            table.add_column(escape(budget), justify="right", no_wrap=True)
        for method in dict.fromkeys(each.row.method for each in part):
            table.add_row(escape(method), *(_cell(by_cell.get((method, budget))) for budget in budgets))
        made.append(table)
    return made


def power_notes(found: Sequence[VideosNeeded], difference: float) -> list[str]:
    """Explain the tables, and state the number for each group."""
    against = found[0].row.against
    lines = [
        f"Videos with which a true difference of {short(difference)} from {against} is found with 80% power (paired, "
        f"clustered by video, two-sided 5% test); in brackets with {ASSURANCE:.0%} assurance, since the variance is an "
        "estimate.",
    ]
    for part in _parts(found):
        known = [each.videos for each in part if each.videos is not None]
        answered = max(each.row.difference.clusters for each in part if each.row.difference)
        text = f"{median(known):,.0f} for half of the methods, {max(known):,} for all" if known else "unknown"
        lines.append(f"{part[0].row.place}: {text}; estimated from {plural(answered, 'video')}.")
    return lines


def _cautious(found: Difference) -> Difference:
    """Return the difference with the upper limit of its standard error."""
    if found.clusters < 2:
        return found
    freedom = found.clusters - 1
    return replace(found, error=found.error * (freedom / float(stats.chi2.ppf(1 - ASSURANCE, freedom))) ** 0.5)


def _parts(found: Sequence[VideosNeeded]) -> list[list[VideosNeeded]]:
    parts: dict[str, list[VideosNeeded]] = {}
    for each in found:
        parts.setdefault(each.row.place, []).append(each)
    return list(parts.values())


def _cell(found: VideosNeeded | None) -> str:
    if found is None or found.videos is None:
        return "–"
    return f"{found.videos:,} ({'–' if found.most is None else format(found.most, ',')})"
