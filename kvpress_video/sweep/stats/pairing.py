"""Group rows into units, pair them between methods, and weight them as the benchmark specifies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ...utils.named_settings import parse
from ..benchmark import BENCHMARKS
from ..results.records import Row
from .clustered import PairedScores
from .inference import Interval, accuracy


@dataclass(frozen=True)
class Unit:
    """One or more questions that count as one.

    Attributes:
        score: score in [0, 1]; the lowest of its questions, so that a unit is correct only if all of them are.
        video, task, category: video, task and category of its questions.
    """

    score: float
    video: str
    task: str
    category: str


@dataclass(frozen=True)
class Sample:
    """The units that one method answered.

    Attributes:
        units: units by their identity.
        levels: nested averaging levels, as in `Benchmark`.
    """

    units: Mapping[Hashable, Unit]
    levels: tuple[str, ...] = ()

    @classmethod
    def of(cls, rows: Iterable[Row], levels: tuple[str, ...] = ()) -> Sample:
        """Group the rows that have a score into units."""
        by_unit: dict[Hashable, list[Row]] = defaultdict(list)
        for row in rows:
            if row.answered.score is not None:
                by_unit[_unit_key(row)].append(row)
        return cls({key: _unit(members) for key, members in by_unit.items()}, levels)

    @property
    def tasks(self) -> list[str]:
        """Tasks, in the order of their first units."""
        return list(dict.fromkeys(unit.task for unit in self.units.values()))

    def task(self, name: str) -> Sample:
        """Select the units of one task; their accuracy is a plain mean."""
        return Sample({key: unit for key, unit in self.units.items() if unit.task == name})

    def accuracy(self) -> Interval:
        """Estimate the accuracy, with an interval clustered by video.

        Raises:
            ValueError: the sample is empty.
        """
        units = self.units.values()
        scores, videos = [unit.score for unit in units], [unit.video for unit in units]
        if not self.levels:
            return accuracy(scores, videos)
        return accuracy(scores, videos, list(self.weights().values()), list(self.strata().values()))

    def strata(self) -> dict[Hashable, tuple[str, ...]]:
        """Return the stratum of each unit: its value at every averaging level."""
        return {key: tuple(getattr(unit, level) for level in self.levels) for key, unit in self.units.items()}

    def weights(self) -> dict[Hashable, float]:
        """Return the weight of each unit in a mean of means, which gives each part of a level the same weight."""
        strata = self.strata()
        parts: dict[tuple[str, ...], set[Hashable]] = defaultdict(set)
        for key, path in strata.items():
            for depth, name in enumerate(path):
                parts[path[:depth]].add(name)
            parts[path].add(key)
        weights = {}
        for key, path in strata.items():
            weight = 1.0
            for depth in range(len(path) + 1):
                weight /= len(parts[path[:depth]])
            weights[key] = weight
        return weights


@dataclass(frozen=True)
class PairedSamples:
    """Two methods, or two runs of one, on the units that both answered with a score."""

    left: Sample
    right: Sample

    @classmethod
    def of(cls, left: Iterable[Row], right: Iterable[Row], levels: tuple[str, ...] = ()) -> PairedSamples:
        """Pair rows question by question, then group them into units."""
        ours, theirs = (
            {question_key(row): row for row in rows if row.answered.score is not None} for rows in (left, right)
        )
        shared = [key for key in theirs if key in ours]
        return cls(Sample.of((ours[key] for key in shared), levels), Sample.of((theirs[key] for key in shared), levels))

    def __bool__(self) -> bool:
        """Return whether they have any unit in common."""
        return bool(self.left.units)

    def task(self, name: str) -> PairedSamples:
        """Select the units of one task."""
        return PairedSamples(self.left.task(name), self.right.task(name))

    @cached_property
    def scores(self) -> PairedScores:
        """Their scores, clustered by video and weighted by the averaging levels."""
        left, right = ({key: unit.score for key, unit in side.units.items()} for side in (self.left, self.right))
        videos = {key: unit.video for key, unit in self.left.units.items()}
        if not self.left.levels:
            return PairedScores.of(left, right, videos)
        return PairedScores.of(left, right, videos, self.left.weights(), self.left.strata())


def question_key(row: Row) -> tuple[int, str, str]:
    """Identify a question among those of one model, benchmark, method and budget."""
    return row.cell.seed, row.clip, row.answered.question


def levels(benchmark: str) -> tuple[str, ...]:
    """Return the averaging levels of the benchmark that a cell names.

    Raises:
        UnknownNameError: the benchmark is not installed.
    """
    return BENCHMARKS.get(parse(benchmark)[0]).levels


def _unit_key(row: Row) -> Hashable:
    if row.answered.unit:
        return row.cell.seed, row.measured.video, row.answered.unit, "unit"
    return question_key(row)


def _unit(rows: Sequence[Row]) -> Unit:
    first = rows[0]
    score = min(row.answered.score for row in rows if row.answered.score is not None)
    return Unit(score, first.measured.video, first.answered.task, first.answered.category)
