"""The page of a sweep, finished or not: its lines, where they come from, and overlays of some of its clips."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import unknown_name
from ..sweep.benchmark import BENCHMARKS, Clip, read_clip
from ..sweep.cells import UNCOMPRESSED, Cell
from ..sweep.results.records import Failure, Row
from ..sweep.results.store import Store
from ..sweep.run.sweep import CLIPS
from ..sweep.run.worker import load_model
from ..sweep.stats.summary import SummaryRow, summarise
from ..video.resolution import frame_pixels
from .overlay import Overlay, look
from .page import write_report
from .ranking import budgets_of, compressed, finished, leaders, nearest_budget, rivals

_SHOWN = 4
"""Methods whose patches are drawn."""
_MEASURED = ("device", "dtype", "attention", "stage", "prefill", "positions", "pixels", "frames", "fps", "revision")


@dataclass(frozen=True)
class Findings:
    """What a sweep's store holds, summed up.

    Attributes:
        folder: that the sweep wrote to.
        cells, rows, failures, plan: as the store has them.
        lines: the summary.
    """

    folder: Path
    cells: Sequence[Cell]
    rows: Sequence[Row]
    failures: Sequence[Failure]
    plan: Mapping[str, Any]
    lines: Sequence[SummaryRow]

    @classmethod
    def read(cls, folder: Path, against: str = UNCOMPRESSED) -> Findings:
        """Read a store.

        Args:
            folder: that the sweep wrote to.
            against: the method that all others are compared with.

        Raises:
            SweepError: there is no store, or it cannot be read.
            UnknownNameError: `against` is not among the methods.
        """
        with Store(folder) as store:
            rows, failures, plan = store.rows(), store.failures(), store.plan
        cells = [Cell(**cell) for cell in plan["cells"]]
        methods = {cell.method for cell in cells} | {UNCOMPRESSED}
        if against not in methods:
            raise unknown_name("method to compare with", against, methods)
        return cls(folder, cells, rows, failures, plan, summarise(rows, failures, cells, against))

    def write_page(
        self,
        file: Path | None = None,
        *,
        title: str,
        overlay_clips: int = 1,
        device: str | None = None,
        say: Callable[[str, int, int], None] = lambda what, done, total: None,
    ) -> Path:
        """Write the report.

        Args:
            file: by default `report.html` in the sweep's folder.
            title: of the page.
            overlay_clips: clips of each group whose retained patches are drawn; they are compressed anew.
            device: where models go for that which name none.
            say: called with what is being done, and how far that is, of how far in all.

        Raises:
            KVPressVideoError: a model, benchmark or clip for the overlays cannot be loaded.
        """
        say("comparing", 0, 0)
        others = rivals(self.lines, self.rows, self.cells)
        drawn = overlays(
            self.lines, self.cells, self.folder, overlay_clips, device=device, done=partial(say, "drawing patches")
        )
        say("writing the report", 0, 0)
        return write_report(
            file or self.folder,
            self.lines,
            title=title,
            facts=facts(self.rows, self.plan),
            failures=self.failures,
            overlays=drawn,
            rivals=others,
        )


def facts(rows: Sequence[Row], plan: Mapping[str, Any]) -> dict[str, Any]:
    """Where the figures come from: what was measured on, and what the plan says that all cells share.

    Args:
        rows, plan: of the sweep.
    """
    measured = [row.measured for row in rows]
    found: dict[str, Any] = {
        name: [value for value in dict.fromkeys(getattr(each, name) for each in measured) if value is not None]
        for name in _MEASURED
    }
    versions: dict[str, dict[str, None]] = {}
    for each in measured:
        for package, version in each.versions.items():
            versions.setdefault(package, {})[version] = None
    found["versions"] = {package: list(seen) for package, seen in versions.items()}
    found["seeds"] = list(dict.fromkeys(row.cell.seed for row in rows))
    if "setup" in plan:
        found["setup"] = {name: value for name, value in plan["setup"].items() if name not in found}
    return {name: value for name, value in found.items() if value}


def best_methods(lines: Sequence[SummaryRow], most: int = _SHOWN) -> tuple[list[str], str | None]:
    """The most accurate methods at the budget nearest to a tenth of the cache, over all groups, and that budget.

    Args:
        lines: of one model on one benchmark.
        most: how many methods.
    """
    budget = nearest_budget(budgets_of(lines))
    at = [line for line in compressed(lines) if line.budget == budget]
    return leaders(at, len(at))[:most], budget


def overlays(
    lines: Sequence[SummaryRow],
    cells: Sequence[Cell],
    folder: Path,
    count: int,
    *,
    device: str | None = None,
    done: Callable[[int, int], None] = lambda done, total: None,
) -> list[Overlay]:
    """What the best methods keep of some clips of the sweep, with the first question about each.

    Args:
        lines, cells: of the sweep.
        folder: that the sweep wrote to.
        count: clips of each group, of each benchmark by each model.
        device: for models that name none.
        done: called with the compressions that are finished, of how many.

    Raises:
        BenchmarkError: a benchmark's files are missing.
        UnknownNameError: a model or benchmark cannot be loaded.
        VideoError: a clip cannot be read.
    """
    jobs = []
    for (model, benchmark), seed in _sides(cells).items():
        side = [line for line in finished(lines) if (line.model, line.benchmark) == (model, benchmark)]
        methods, budget = best_methods(side)
        if methods and budget and count > 0:
            clips = _some(BENCHMARKS.make(benchmark).clips(seed, folder / CLIPS), count)
            jobs += [(model, methods, budget, clip) for clip in clips]
    runs, total = itertools.count(1), sum(len(methods) for _, methods, _, _ in jobs)
    loaded: dict[str, Any] = {}
    found = []
    done(0, total)
    for name, methods, budget, clip in jobs:
        if name not in loaded:
            loaded = {name: load_model(name, device)}
        model, processor = loaded[name]
        video = read_clip(clip, frame_pixels(processor))
        question = clip.questions[0].text
        title = " · ".join(filter(None, (clip.name, clip.group, budget)))
        found.append(
            look(model, processor, video, methods, budget, question, title=title, done=lambda: done(next(runs), total))
        )
    return found


def _sides(cells: Sequence[Cell]) -> dict[tuple[str, str], int]:
    """Each model and benchmark, with the first seed; those of one model follow each other."""
    models = list(dict.fromkeys(cell.model for cell in cells))
    found: dict[tuple[str, str], int] = {}
    for cell in sorted(cells, key=lambda cell: models.index(cell.model)):
        found.setdefault((cell.model, cell.benchmark), cell.seed)
    return found


def _some(clips: Sequence[Clip], count: int) -> list[Clip]:
    """The first clips of each group."""
    groups: dict[str, list[Clip]] = {}
    for clip in clips:
        groups.setdefault(clip.group, []).append(clip)
    return [clip for mine in groups.values() for clip in mine[:count]]
