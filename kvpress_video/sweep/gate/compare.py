"""CI regression gate: compare a sweep with a baseline on the same questions."""

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
from .sweep_data import SweepData, by_question, check_same_questions, condition_changes

Outcome = Literal["fell", "tolerated", "rose", ""]
_TESTED: tuple[Outcome, ...] = ("fell", "tolerated", "rose")
_UNCHANGED: Outcome = ""


@dataclass(frozen=True)
class Comparison:
    """One method at one budget, compared on all questions that both sweeps answered, or on those of one task.

    Attributes:
        model: as in the cells.
        benchmark: as in the cells.
        method: as in the cells.
        budget: as in the cells.
        task: its name, or `overall`.
        base: accuracy of the earlier sweep on the shared questions.
        new: accuracy of the sweep to check on them.
        difference: new minus base.
        retention: new over base; None if the base has no correct answer.
        p: one-sided p of a drop below the fraction to keep, corrected for all comparisons.
        verdict: `fell` fails the build; `tolerated` is a significant drop, but not below the fraction to keep.
        detectable: the smallest true drop that fails four builds out of five.
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
    """A cell that lacks answers in the new sweep.

    Attributes:
        cell: the cell.
        lacking: questions that only the base answered.
        questions: questions that the base answered.
        error: the cell's error, if it failed.
    """

    cell: Cell
    lacking: int
    questions: int
    error: str | None

    def __str__(self) -> str:
        reason = f": {self.error}" if self.error else ""
        counts = f"{self.lacking} of {self.questions} questions have no answer"
        return f"{self.cell}, seed {self.cell.seed}: {counts}{reason}"


@dataclass(frozen=True)
class Gate:
    """The comparison of two sweeps.

    Attributes:
        base: title of the earlier sweep.
        new: title of the sweep to check.
        keep: the fraction of the base's accuracy to keep.
        alpha: the probability of any false alarm.
        comparisons: comparisons in the order of the base, overall before tasks.
        missing: cells that lack answers in the new sweep.
        allow_missing: whether the build passes despite missing answers.
        warnings: differences of conditions between the sweeps.
        unscored: shared questions that need a judge and are not counted.
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
        """Select the comparisons with a verdict."""
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
    """Compare a sweep with a baseline on the questions that both answered, in any order.

    Args:
        base, new: the baseline and the sweep to test.
        keep: fraction of the base's accuracy that the new sweep must retain, in (0, 1].
        alpha: the probability of a false alarm, over all comparisons together.
        methods, budgets: the ones to compare; all by default.
        allow_missing: whether the build passes if answers of the base are missing.

    Raises:
        SweepError: one has no answers, they share no scored question, or a shared question is not the same in both.
        UnknownNameError: a method or budget that neither has, or a benchmark that is not installed.
    """
    for sweep in (base, new):
        if not sweep.rows:
            raise SweepError(f"{sweep.name} holds no answers to compare: complete its sweep with --resume.")
    cells = [row.cell for sweep in (base, new) for row in sweep.rows]
    for noun, asked, known in (
        ("method", methods, {cell.name for cell in cells}),
        ("budget", budgets, {cell.budget for cell in cells}),
    ):
        for name in asked:
            if name not in known:
                raise unknown_name(f"{noun} of these sweeps", name, known)
    base, new = base.only(methods, budgets), new.only(methods, budgets)
    check_same_questions(base, new)
    pairs = _pairs(base.rows, new.rows)
    if not pairs:
        raise SweepError(
            f"{base.name} and {new.name} share no scored question: sweep the same models, benchmarks, methods, budgets "
            "and seeds."
        )
    before, after = (by_question(sweep.rows, lambda row: row.answered.score) for sweep in (base, new))
    return Gate(
        base.title,
        new.title,
        keep,
        alpha,
        _comparisons(pairs, keep, alpha),
        _missing(base, new),
        allow_missing,
        condition_changes(base, new),
        sum(None in (score, after.get(key, 0.0)) for key, score in before.items() if key in after),
    )


def _pairs(base: Iterable[Row], new: Iterable[Row]) -> list[tuple[_Subject, str, PairedSamples]]:
    """Pair the new sweep (left) with the base (right): overall, and by task if there are several."""
    before, after = _by_subject(base), _by_subject(new)
    pairs = []
    for subject in before:
        if pair := PairedSamples.of(after.get(subject, []), before[subject], levels(subject.benchmark)):
            tasks = pair.left.tasks
            pairs.append((subject, OVERALL, pair))
            pairs += [(subject, task, pair.task(task)) for task in tasks if len(tasks) > 1]
    return pairs


def _comparisons(pairs: Sequence[tuple[_Subject, str, PairedSamples]], keep: float, alpha: float) -> list[Comparison]:
    below = holm([fall(pair.scores, keep) for _, _, pair in pairs])
    worse = holm([fall(pair.scores) for _, _, pair in pairs])
    better = holm([fall(pair.scores.swapped()) for _, _, pair in pairs])
    found = []
    for (subject, task, pair), *ps in zip(pairs, below, worse, better, strict=True):
        verdict = next((name for name, p in zip(_TESTED, ps, strict=True) if p < alpha), _UNCHANGED)
        base, new, difference = pair.right.accuracy(), pair.left.accuracy(), compare(pair.scores)
        smallest = min(1.0, (1 - keep) * base.mean + detectable(difference, alpha / len(pairs), sides=1))
        found.append(
            Comparison(*subject, task, base, new, difference, retention(pair.scores), ps[0], verdict, smallest)
        )
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
        found[_Subject(row.cell.model, row.cell.benchmark, row.cell.name, row.cell.budget)].append(row)
    return found
