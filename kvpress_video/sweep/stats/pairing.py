"""Answers as statistics need them: questions that count as one put together, paired, weighted as the benchmark asks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...compressor.registry import parse
from ..benchmark import BENCHMARKS
from ..results.records import Row
from .inference import Accuracy, Difference, Retention, accuracy, compare, fall, retention


@dataclass(frozen=True)
class Unit:
    """What counts as one question.

    Attributes:
        score: in [0, 1]; of several questions the lowest, so that right means all of them.
        video, task, category: of its questions.
    """

    score: float
    video: str
    task: str
    category: str


@dataclass(frozen=True)
class Sample:
    """The units that one method answered.

    Attributes:
        units: by what identifies them.
        levels: what their mean is taken within before it is taken over all, as in `Benchmark`.
    """

    units: Mapping[Hashable, Unit]
    levels: tuple[str, ...] = ()

    @classmethod
    def of(cls, rows: Iterable[Row], levels: tuple[str, ...] = ()) -> Sample:
        """Of the rows that have a score."""
        together: dict[Hashable, list[Row]] = defaultdict(list)
        for row in rows:
            if row.answered.score is not None:
                together[_unit(row)].append(row)
        return cls({key: _merged(members) for key, members in together.items()}, levels)

    @property
    def tasks(self) -> list[str]:
        """In the order of their first units."""
        return list(dict.fromkeys(unit.task for unit in self.units.values()))

    def task(self, name: str) -> Sample:
        """Its units of one task, whose mean is a plain one."""
        return Sample({key: unit for key, unit in self.units.items() if unit.task == name})

    def accuracy(self) -> Accuracy:
        """With an interval by video.

        Raises:
            ValueError: it is empty.
        """
        units = self.units.values()
        scores, videos = [unit.score for unit in units], [unit.video for unit in units]
        if not self.levels:
            return accuracy(scores, videos)
        return accuracy(
            scores, videos, weights=[*self._weights().values()], strata=[self._path(unit) for unit in units]
        )

    def _path(self, unit: Unit) -> tuple[str, ...]:
        return tuple(getattr(unit, level) for level in self.levels)

    def _weights(self) -> dict[Hashable, float]:
        """One over the number of parts at each level above a unit, and over that of units beside it."""
        parts: dict[tuple[str, ...], set[Hashable]] = defaultdict(set)
        for key, unit in self.units.items():
            path = self._path(unit)
            for depth, name in enumerate(path):
                parts[path[:depth]].add(name)
            parts[path].add(key)
        weights = {}
        for key, unit in self.units.items():
            path, weight = self._path(unit), 1.0
            for depth in range(len(path) + 1):
                weight /= len(parts[path[:depth]])
            weights[key] = weight
        return weights


@dataclass(frozen=True)
class Pair:
    """Two methods, or two runs of one, on the units that both answered and that could be scored for both."""

    left: Sample
    right: Sample

    @classmethod
    def of(cls, left: Iterable[Row], right: Iterable[Row], levels: tuple[str, ...] = ()) -> Pair:
        """Paired question by question, before units are made of them."""
        ours, theirs = (
            {question(row): row for row in rows if row.answered.score is not None} for rows in (left, right)
        )
        shared = [key for key in theirs if key in ours]
        return cls(Sample.of((ours[key] for key in shared), levels), Sample.of((theirs[key] for key in shared), levels))

    def __bool__(self) -> bool:
        """Whether they have anything in common."""
        return bool(self.left.units)

    def task(self, name: str) -> Pair:
        """Their units of one task."""
        return Pair(self.left.task(name), self.right.task(name))

    def difference(self) -> Difference:
        """Left minus right."""
        return compare(*self._scores(), **self._design())

    def retention(self) -> Retention | None:
        """Left over right; None where right has nothing right."""
        return retention(*self._scores(), **self._design())

    def fall(self, keep: float = 1.0) -> float:
        """One-sided p of left being no worse than `keep` times right."""
        return fall(*self._scores(), keep=keep, **self._design())

    def _scores(self) -> tuple[dict[Hashable, float], dict[Hashable, float]]:
        left, right = ({key: unit.score for key, unit in side.units.items()} for side in (self.left, self.right))
        return left, right

    def _design(self) -> dict[str, Any]:
        units = self.left.units
        clusters = {key: unit.video for key, unit in units.items()}
        if not self.left.levels:
            return {"clusters": clusters}
        strata = {key: self.left._path(unit) for key, unit in units.items()}
        return {"clusters": clusters, "weights": self.left._weights(), "strata": strata}


def question(row: Row) -> tuple[int, str, str]:
    """What identifies a question among those of one model, benchmark, method and budget."""
    return row.cell.seed, row.clip, row.answered.question


def levels(benchmark: str) -> tuple[str, ...]:
    """Of a benchmark as a cell spells it.

    Raises:
        UnknownNameError: it is not installed.
    """
    return BENCHMARKS.get(parse(benchmark)[0]).levels


def _unit(row: Row) -> Hashable:
    if row.answered.unit:
        return row.cell.seed, row.measured.video, row.answered.unit, "unit"
    return question(row)


def _merged(rows: Sequence[Row]) -> Unit:
    first = rows[0]
    score = min(row.answered.score for row in rows if row.answered.score is not None)
    return Unit(score, first.measured.video, first.answered.task, first.answered.category)
