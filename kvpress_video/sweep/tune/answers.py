"""Answers that tuning needs, through the store of a sweep."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ...budget import UNCOMPRESSED, UNCOMPRESSED_BUDGET
from ..benchmark import Clip
from ..cells import Cell, Setup
from ..results.records import Row
from ..results.store import Store
from ..run.executors import Executor
from ..run.files import states_of
from ..run.sweep import plan_of, run_missing
from ..stats.inference import Difference, Interval, compare
from ..stats.pairing import PairedSamples, Sample, levels
from .halving import Scores

Progress = Callable[[str, int, int], None]
"""Takes the current step, cells × clips done, and their total."""


@dataclass(frozen=True)
class Target:
    """The setting to find a method for.

    Attributes:
        model, benchmark, budget, seed: as in a cell.
        methods: methods to choose from; settings given with them are fixed.
        setup: setup of all answers.
    """

    model: str
    benchmark: str
    budget: str
    methods: tuple[str, ...]
    seed: int = 0
    setup: Setup = field(default_factory=Setup)

    def cell(self, method: str) -> Cell:
        """Return the cell of a method; the full cache is at 100%."""
        budget = UNCOMPRESSED_BUDGET if method == UNCOMPRESSED else self.budget
        return Cell(method, budget, self.model, self.benchmark, self.seed)


class Answers:
    """Answers of methods about clips, read from a sweep's store or generated and stored there.

    Attributes:
        what: description of the current work.
        failed: candidates that failed on any clip, with their first error.
    """

    def __init__(
        self,
        target: Target,
        folder: Path,
        executor: Executor,
        clips: Sequence[Clip],
        how: Mapping[str, object],
        resume: bool,
        progress: Progress,
    ) -> None:
        self.what = ""
        self.failed: dict[str, str] = {}
        self._target, self._folder, self._executor, self._resume = target, folder, executor, resume
        self._progress = progress
        suite = {(target.benchmark, target.seed): clips}
        self._plan = {**plan_of(target.setup, [], suite), "files": states_of(suite, [target.model]), "tune": how}
        self._rows: dict[Cell, list[Row]] = {}

    def run(self, methods: Sequence[str], clips: Sequence[Clip]) -> None:
        """Generate the answers about some clips by some methods that the store lacks."""
        target = self._target
        cells = [target.cell(method) for method in methods]
        text = f"{self.what}: {len(methods)} candidates on {len(clips)} clips"
        plan = {**self._plan, "cells": [vars(cell) for cell in cells]}
        with Store(self._folder, plan, resume=self._resume) as store:
            suites = {(target.benchmark, target.seed): clips}
            report = partial(self._progress, text)
            report(0, len(cells) * len(clips))
            if run_missing(self._executor, cells, suites, store, lambda done, total, cell: report(done, total)):
                raise KeyboardInterrupt
            self._rows = {}
            for row in store.rows():
                self._rows.setdefault(row.cell, []).append(row)
            for failure in store.failures():
                self.failed.setdefault(failure.cell.method, failure.error)
        self._resume = True

    def scores(self, methods: Sequence[str], clips: Sequence[Clip]) -> Scores:
        """Score some methods on some clips; None for those that failed on any."""
        self.run(methods, clips)
        return {method: self._sample(method, clips).accuracy().mean if self.answered(method, clips) else None
                for method in methods}  # fmt: skip

    def answered(self, method: str, clips: Sequence[Clip]) -> bool:
        """Return whether a method has scored answers about all of some clips."""
        scored = {row.clip for row in self._of(method, clips) if row.answered.score is not None}
        return scored >= {clip.name for clip in clips}

    def accuracy(self, method: str, clips: Sequence[Clip]) -> Interval:
        """Estimate the accuracy of a method on some clips."""
        return self._sample(method, clips).accuracy()

    def difference(self, left: str, right: str, clips: Sequence[Clip]) -> Difference:
        """Compare two methods on some clips."""
        ours, theirs = (self._of(method, clips) for method in (left, right))
        return compare(PairedSamples.of(ours, theirs, levels(self._target.benchmark)).scores)

    def _sample(self, method: str, clips: Sequence[Clip]) -> Sample:
        return Sample.of(self._of(method, clips), levels(self._target.benchmark))

    def _of(self, method: str, clips: Sequence[Clip]) -> list[Row]:
        names = {clip.name for clip in clips}
        return [row for row in self._rows.get(self._target.cell(method), []) if row.clip in names]
