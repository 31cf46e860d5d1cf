"""The gate of a build: whether a sweep fell behind an earlier one on the same questions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ...errors import SweepError, unknown_name
from ..cells import Cell
from ..results.records import Row
from ..stats.inference import Difference, Interval, compare, detectable, fall, holm, retention
from ..stats.pairing import PairedSamples, levels
from ..stats.summary import OVERALL
from .sweep_data import SweepData, by_question, check_same_questions, unfair

Outcome = Literal["fell", "tolerated", "rose", ""]
_VERDICTS: tuple[Outcome, ...] = ("fell", "tolerated", "rose")
_NONE: Outcome = ""


@dataclass(frozen=True)
class Comparison:
    """One method at one budget, on all questions that both sweeps answered, or on those of one task.

    Attributes:
        model, benchmark, method, budget: as cells spell them.
        task: its name, or `overall`.
        base, new: the two accuracies on the shared questions.
        difference, retention: of new to base.
        p: probability of falling this far below the share to be kept by chance, corrected for all comparisons.
        verdict: `fell` fails the build; `tolerated` is a fall, but not below the share to be kept.
        detectable: the smallest fall that fails four of five builds.
    """

    model: str
    benchmark: str
    method: str
    budget: str
    task: str
    base: Interval
    new: Interval
    difference: Difference
    retention: Interval | None
    p: float
    verdict: Outcome
    detectable: float


@dataclass(frozen=True)
class Missing:
    """A cell of which the new sweep lacks answers that the base has.

    Attributes:
        cell: which.
        lacking, questions: how many of how many.
        error: why, where it failed.
    """

    cell: Cell
    lacking: int
    questions: int
    error: str | None

    def __str__(self) -> str:
        why = f": {self.error}" if self.error else ""
        return f"{self.cell}, seed {self.cell.seed}: {self.lacking} of {self.questions} questions have no answer{why}"


@dataclass(frozen=True)
class Gate:
    """What the comparison of two sweeps came to.

    Attributes:
        base, new: what they are called.
        keep: the share of the base's accuracy to be kept.
        alpha: the probability that any comparison fails by chance.
        comparisons: in the order of the base, the overall one before those of its tasks.
        missing: cells that the new sweep lacks answers of.
        allow_missing: whether that passes.
        warnings: what makes the comparison less than fair.
        unscored: questions that both answered and that only a judge can score, which nothing here counts.
    """

    base: str
    new: str
    keep: float
    alpha: float
    comparisons: list[Comparison]
    missing: list[Missing]
    allow_missing: bool
    warnings: list[str]
    unscored: int

    @property
    def green(self) -> bool:
        """Whether the build passes."""
        return not self.of("fell") and (self.allow_missing or not self.missing)

    def of(self, verdict: Outcome) -> list[Comparison]:
        """The comparisons with this verdict."""
        return [found for found in self.comparisons if found.verdict == verdict]


class _Subject(NamedTuple):
    model: str
    benchmark: str
    method: str
    budget: str


def compare_sweeps(
    base: SweepData,
    new: SweepData,
    keep: float = 1.0,
    alpha: float = 0.05,
    *,
    methods: Collection[str] = (),
    budgets: Collection[str] = (),
    allow_missing: bool = False,
) -> Gate:
    """Compare a sweep with an earlier one on the questions that both answered, whatever order they did it in.

    Args:
        base, new: the sweeps.
        keep: the share of the base's accuracy that the new one must keep, in (0, 1].
        alpha: the probability of a false alarm, over all comparisons together.
        methods, budgets: the ones to compare; all by default.
        allow_missing: whether the build passes without answers that the base has.

    Raises:
        SweepError: they share no scored question, or a question that they share is not the same in both.
        UnknownNameError: a method or budget that neither has, or a benchmark that is not installed.
    """
    cells = [row.cell for side in (base, new) for row in side.rows]
    for what, asked, known in (
        ("method", methods, {cell.method for cell in cells}),
        ("budget", budgets, {cell.budget for cell in cells}),
    ):
        for name in asked:
            if name not in known:
                raise unknown_name(f"{what} of these sweeps", name, known)
    base, new = base.only(methods, budgets), new.only(methods, budgets)
    check_same_questions(base, new)
    pairs = _pairs(base.rows, new.rows)
    if not pairs:
        raise SweepError(
            f"{base.name} and {new.name} share no scored question: sweep the same models, benchmarks, methods, budgets "
            "and seeds."
        )
    before, after = (by_question(side.rows, lambda row: row.answered.score) for side in (base, new))
    return Gate(
        base.title,
        new.title,
        keep,
        alpha,
        _compared(pairs, keep, alpha),
        _missing(base, new),
        allow_missing,
        unfair(base, new),
        sum(None in (score, after.get(key, 0.0)) for key, score in before.items() if key in after),
    )


def _pairs(base: Iterable[Row], new: Iterable[Row]) -> list[tuple[_Subject, str, PairedSamples]]:
    """Pair the new sweep (left) with the base (right): overall, and by task where there are several."""
    before, after = _by_subject(base), _by_subject(new)
    pairs = []
    for subject in before:
        if pair := PairedSamples.of(after.get(subject, []), before[subject], levels(subject.benchmark)):
            tasks = pair.left.tasks
            pairs.append((subject, OVERALL, pair))
            pairs += [(subject, task, pair.task(task)) for task in tasks if len(tasks) > 1]
    return pairs


def _compared(pairs: Sequence[tuple[_Subject, str, PairedSamples]], keep: float, alpha: float) -> list[Comparison]:
    below = holm([fall(pair.scores, keep) for _, _, pair in pairs])
    worse = holm([fall(pair.scores) for _, _, pair in pairs])
    better = holm([fall(pair.scores.swapped()) for _, _, pair in pairs])
    found = []
    for (subject, task, pair), *ps in zip(pairs, below, worse, better, strict=True):
        verdict = next((name for name, p in zip(_VERDICTS, ps, strict=True) if p < alpha), _NONE)
        base, new, difference = pair.right.accuracy(), pair.left.accuracy(), compare(pair.scores)
        seen = min(1.0, (1 - keep) * base.mean + detectable(difference, alpha / len(pairs), sides=1))
        found.append(Comparison(*subject, task, base, new, difference, retention(pair.scores), ps[0], verdict, seen))
    return found


def _missing(base: SweepData, new: SweepData) -> list[Missing]:
    asked, answered = by_question(base.rows), by_question(new.rows)
    errors = {failure.cell: failure.error for failure in reversed(new.failures)}
    total = Counter(cell for cell, *_ in asked)
    lacking = Counter(key[0] for key in asked if key not in answered)
    return [Missing(cell, lacking[cell], total[cell], errors.get(cell)) for cell in total if lacking[cell]]


def _by_subject(rows: Iterable[Row]) -> dict[_Subject, list[Row]]:
    found: dict[_Subject, list[Row]] = defaultdict(list)
    for row in rows:
        found[_Subject(row.cell.model, row.cell.benchmark, row.cell.method, row.cell.budget)].append(row)
    return found
