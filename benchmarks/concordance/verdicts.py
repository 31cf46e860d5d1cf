"""Verdicts on orderings, from the rows of a sweep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kvpress_video.sweep.formatting import interval, markdown_table
from kvpress_video.sweep.grid.validation import ITEMS
from kvpress_video.sweep.results.records import Row
from kvpress_video.sweep.stats.clustered import PairedScores
from kvpress_video.sweep.stats.inference import Difference, compare
from kvpress_video.sweep.stats.pairing import question_key

from .orderings import Ordering

AGREES, DISAGREES, CANNOT_TELL = "agrees", "disagrees", "cannot tell"
Asked = tuple[float, tuple[int, str, str]]
"""A ratio and a question."""


@dataclass(frozen=True)
class Verdict:
    """Verdict of a benchmark on an ordering.

    Attributes:
        ordering: the published ordering.
        difference: measured accuracies, better minus worse, over all budgets; None without common questions.
    """

    ordering: Ordering
    difference: Difference | None

    @property
    def word(self) -> str:
        """Verdict in words, by whether the 95% interval lies above zero, below zero, or covers it."""
        if self.difference is None or self.difference.low <= 0 <= self.difference.high:
            return CANNOT_TELL
        return AGREES if self.difference.low > 0 else DISAGREES


def judge(rows: Iterable[Row], orderings: Sequence[Ordering], budgets: Sequence[float], present: str) -> list[Verdict]:
    """Compare the two methods of each ordering on the questions that both answered, clustered by video.

    Args:
        rows: rows of a sweep of one model and benchmark.
        orderings: orderings to judge.
        budgets: budgets of the worse method, as ratios; their questions are pooled.
        present: the benchmark's task of questions about the present.
    """
    scores: dict[str, dict[Asked, float]] = {}
    videos: dict[Asked, str] = {}
    tasks: dict[Asked, str] = {}
    for row in rows:
        if row.answered.score is not None:
            asked = ratio_of(row.cell.budget), question_key(row)
            scores.setdefault(row.cell.method, {})[asked] = row.answered.score
            videos[asked], tasks[asked] = row.measured.video, row.answered.task

    def side(method: str, ordering: Ordering, fraction: float) -> Mapping[Asked, float]:
        """Return the scores by question and budget of the worse method."""
        answers = scores.get(spelled(method), {})
        wanted = {ratio: round(ratio * fraction, 9) for ratio in budgets}
        return {
            (ratio, question): score
            for ratio, mine in wanted.items()
            for (budget, question), score in answers.items()
            if budget == mine and (not ordering.present or tasks[budget, question] == present)
        }

    found = []
    for ordering in orderings:
        better, worse = side(ordering.better, ordering, ordering.fraction), side(ordering.worse, ordering, 1.0)
        clusters = {asked: videos[asked] for asked in worse}
        paired = PairedScores.of(better, worse, clusters)
        found.append(Verdict(ordering, compare(paired) if len(paired) else None))
    return found


def ratio_of(budget: str) -> float:
    """Return the ratio of a cell's budget, `"12.5%"`."""
    return round(float(budget.removesuffix("%")) / 100, 9)


def spelled(method: str) -> str:
    """Write a method as the cells of a sweep do."""
    return str(ITEMS["methods"](method))


def table(verdicts: Sequence[Verdict]) -> str:
    """Write the verdicts as a Markdown table."""
    rows = [["published ordering", "source", "published", "held back", "difference here", "verdict"]]
    for each in verdicts:
        gap = interval(each.difference, "+") if each.difference else "no answers"
        one = each.ordering
        rows.append([str(one), one.source, one.figures, "yes" if one.held_back else "", gap, each.word])
    return markdown_table(rows, left=6)


def totals(verdicts: Sequence[Verdict]) -> list[str]:
    """Count the verdicts, separately for open and held-back orderings."""
    lines = []
    for name, part in (
        ("open", [each for each in verdicts if not each.ordering.held_back]),
        ("held back", [each for each in verdicts if each.ordering.held_back]),
    ):
        if part:
            counts = {word: sum(each.word == word for each in part) for word in (AGREES, DISAGREES, CANNOT_TELL)}
            lines.append(f"{name}: " + ", ".join(f"{count} {word}" for word, count in counts.items()))
    return lines
