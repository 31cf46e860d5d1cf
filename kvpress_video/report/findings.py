"""The report of a sweep, finished or not: its summary, its provenance, and overlays of some of its clips."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..budget import UNCOMPRESSED
from ..compressor.registry import make_method
from ..errors import KVPressVideoError, unknown_name
from ..models.loading import load_model
from ..sweep.benchmark import BENCHMARKS, Clip, read_clip
from ..sweep.cells import Cell
from ..sweep.results.records import Failure, Row
from ..sweep.results.store import Store
from ..sweep.results.stored_plan import unfinished
from ..sweep.run.sweep import CLIPS
from ..sweep.stats.summary import SummaryRow, summarise
from ..utils.warnings import warn_caller
from ..video.resolution import frame_pixels
from .page import write_report
from .ranking import budgets_of, compare_with_best, compressed, finished, leaders, nearest_budget
from .retained import Overlay, look

_OVERLAY_METHODS = 4
_PROVENANCE = (
    *("device", "dtype", "attention", "stage", "prefill", "positions", "labels", "pixels", "frames", "fps", "revision"),
)


@dataclass(frozen=True)
class Findings:
    """The contents of a sweep's store, summarised.

    Attributes:
        folder: folder of the sweep.
        cells, rows, failures, plan: as in the store.
        summary: one row per method, budget and group.
    """

    folder: Path
    cells: Sequence[Cell]
    rows: Sequence[Row]
    failures: Sequence[Failure]
    plan: Mapping[str, Any]
    summary: Sequence[SummaryRow]

    @classmethod
    def read(cls, folder: Path, against: str = UNCOMPRESSED) -> Findings:
        """Read and summarise a store.

        Args:
            folder: folder of the sweep.
            against: the method to compare all others with.

        Raises:
            SweepError: there is no store, or it cannot be read.
            UnknownNameError: `against` is not among the methods.
        """
        with Store(folder) as store:
            rows, failures, plan = store.rows(), store.failures(), store.plan
        cells = [Cell(**cell) for cell in plan["cells"]]
        methods = {cell.name for cell in cells} | {UNCOMPRESSED}
        if against not in methods:
            raise unknown_name("method to compare with", against, methods)
        return cls(folder, cells, rows, failures, plan, summarise(rows, failures, cells, against))

    @property
    def status(self) -> str:
        """How much of the sweep has run; empty if all of it has."""
        return unfinished(self.plan, [*self.rows, *self.failures])

    def write_page(
        self,
        file: Path | None = None,
        *,
        title: str,
        overlay_clips: int = 1,
        device: str | None = None,
        progress: Callable[[str, int, int], None] = lambda step, done, total: None,
    ) -> Path:
        """Write the report.

        Args:
            file: file to write; by default `report.html` in the sweep's folder.
            title: title of the page.
            overlay_clips: number of clips of each group to draw retained patches of; they are compressed again.
            device: device of models that name none.
            progress: called with the current step, the number of finished parts, and the total (0 if unknown).

        If a model, benchmark, clip or method is no longer available, only its overlays are missing; the page and a
        warning report this.
        """
        progress("comparing", 0, 0)
        against_best = compare_with_best(self.summary, self.rows, self.cells)
        missing: list[str] = []
        done = partial(progress, "drawing patches")
        drawn = overlays(
            self.summary, self.cells, self.folder, overlay_clips, device=device, done=done, missing=missing.append
        )
        for message in dict.fromkeys(missing):
            warn_caller(message)
        progress("writing the report", 0, 0)
        return write_report(
            file or self.folder,
            self.summary,
            title=title,
            status=self.status,
            facts=facts(self.rows, self.plan),
            failures=self.failures,
            overlays=drawn,
            missing_overlays=list(dict.fromkeys(missing)),
            against_best=against_best,
        )


def facts(rows: Sequence[Row], plan: Mapping[str, Any]) -> dict[str, Any]:
    """Collect the provenance of the figures: device, versions, settings.

    Args:
        rows, plan: those of the sweep.
    """
    columns = [row.measured.as_dict() for row in rows]
    found: dict[str, Any] = {
        name: [value for value in dict.fromkeys(each[name] for each in columns) if value is not None]
        for name in _PROVENANCE
    }
    versions: dict[str, dict[str, None]] = {}
    for row in rows:
        for package, version in row.measured.versions.items():
            versions.setdefault(package, {})[version] = None
    found["versions"] = {package: list(seen) for package, seen in versions.items()}
    found["seeds"] = list(dict.fromkeys(row.cell.seed for row in rows))
    if "setup" in plan:
        found["setup"] = {name: value for name, value in plan["setup"].items() if name not in found}
    return {name: value for name, value in found.items() if value}


def best_methods(summary: Sequence[SummaryRow], most: int = _OVERLAY_METHODS) -> tuple[list[str], str | None]:
    """Return the most accurate methods at the budget closest to a tenth of the cache, and that budget.

    Args:
        summary: summary of one model on one benchmark.
        most: maximum number of methods.
    """
    budget = nearest_budget(budgets_of(summary))
    at_budget = [row for row in compressed(summary) if row.budget == budget]
    return leaders(at_budget, len(at_budget))[:most], budget


def overlays(
    summary: Sequence[SummaryRow],
    cells: Sequence[Cell],
    folder: Path,
    count: int,
    *,
    device: str | None = None,
    done: Callable[[int, int], None] = lambda done, total: None,
    missing: Callable[[str], None] = lambda message: None,
) -> list[Overlay]:
    """Compress some clips of a sweep again and record which patches the best methods keep.

    Args:
        summary, cells: summary and cells of the sweep.
        folder: folder of the sweep.
        count: clips of each group, for each model and benchmark.
        device: device of models that name none.
        done: called with the number of finished compressions and the total.
        missing: called with a description and the reason, if a benchmark, model, clip or method can no longer be loaded
            or used.
    """
    jobs = []
    for (model, benchmark), seed in _suites(cells).items():
        suite = [row for row in finished(summary) if (row.model, row.benchmark) == (model, benchmark)]
        methods, budget = best_methods(suite)
        if methods and budget and count > 0:
            with _missing(f"clips of {benchmark}", missing):
                clips = _first_of_each_group(BENCHMARKS.make(benchmark).clips(seed, folder / CLIPS), count)
                usable = _usable(methods, missing)
                jobs += [(model, usable, budget, clip) for clip in clips if usable]
    runs, total = itertools.count(1), sum(len(methods) for _, methods, _, _ in jobs)
    loaded: dict[str, Any] = {}
    found = []
    done(0, total)
    for name, methods, budget, clip in jobs:
        title = " · ".join(filter(None, (clip.name, clip.group, budget)))
        with _missing(title, missing):
            if name not in loaded:
                loaded = {name: load_model(name, device)}
            model, processor = loaded[name]
            video = read_clip(clip, frame_pixels(processor))
            question = clip.questions[0].text
            how: Any = {"title": title, "done": lambda: done(next(runs), total)}
            found.append(look(model, processor, video, methods, budget, question, **how))
    return found


@contextmanager
def _missing(subject: str, report: Callable[[str], None]) -> Iterator[None]:
    """Report an error inside the block as missing patches."""
    try:
        yield
    except (KVPressVideoError, torch.OutOfMemoryError) as error:
        report(f"The retained patches of {subject} are not drawn: {error}")


def _usable(methods: Sequence[str], missing: Callable[[str], None]) -> list[str]:
    found = []
    for method in methods:
        with _missing(method, missing):
            make_method(method)
            found.append(method)
    return found


def _suites(cells: Sequence[Cell]) -> dict[tuple[str, str], int]:
    """Return the first seed of each model and benchmark, model by model."""
    models = list(dict.fromkeys(cell.model for cell in cells))
    found: dict[tuple[str, str], int] = {}
    for cell in sorted(cells, key=lambda cell: models.index(cell.model)):
        found.setdefault((cell.model, cell.benchmark), cell.seed)
    return found


def _first_of_each_group(clips: Sequence[Clip], count: int) -> list[Clip]:
    groups: dict[str, list[Clip]] = {}
    for clip in clips:
        groups.setdefault(clip.group, []).append(clip)
    return [clip for mine in groups.values() for clip in mine[:count]]
