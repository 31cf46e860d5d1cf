"""What a sweep came to: one line per method and budget, with accuracies, comparisons and costs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import Any, NamedTuple

from ..cells import UNCOMPRESSED, Cell
from ..results.records import Failure, Measured, Row
from .inference import Accuracy, Difference, Retention
from .pairing import Pair, Sample, levels

OVERALL = "overall"
UNCOMPRESSED_BUDGET = "100%"


@dataclass(frozen=True)
class SummaryRow:
    """One method at one budget, on one group of one benchmark's clips, by one model; seeds are pooled.

    Attributes:
        model, benchmark, method, budget: as cells spell them.
        group: of clips; empty for cells that finished none.
        against: the method that it is compared with at the same budget; the full cache is at 100%.
        accuracies: per task, and `overall`; empty where nothing was scored.
        difference: to that method on the same questions; None for itself, and where it was not run.
        retention: accuracy relative to the full cache; None for that itself, and where it was not run.
        entries: visual entries held per layer and KV head.
        ratio: visual entries held over visual tokens.
        bytes, peak_bytes, full_bytes: held per question, held at most, held by the stock cache.
        prefill_seconds: over the clips that it was not shared on.
        compress_seconds, answer_seconds: in the method; reading and answering all questions about a clip.
        questions, clips: how many it answered, and on how many clips.
        unscored: answers that only a judge can score, which no accuracy counts.
        error: the first one, of a cell that failed on some clip.

    Costs, from `entries` to `answer_seconds`, are means over clips; nan where there is none.
    """

    model: str
    benchmark: str
    group: str
    method: str
    budget: str
    against: str
    accuracies: dict[str, Accuracy]
    difference: Difference | None
    retention: Retention | None
    entries: float
    ratio: float
    bytes: float
    peak_bytes: float
    full_bytes: float
    prefill_seconds: float
    compress_seconds: float
    answer_seconds: float
    questions: int
    clips: int
    unscored: int = 0
    error: str | None = None


def summarise(
    rows: Iterable[Row], failures: Iterable[Failure], cells: Sequence[Cell], against: str = UNCOMPRESSED
) -> list[SummaryRow]:
    """The lines, in the order of the cells' models and benchmarks, then of groups, then of cells.

    Cells that never ran or failed on every clip have a line too; group and accuracies are empty then, unless other
    cells tell what group the clips are of.

    Args:
        rows, failures: of the sweep.
        cells: what it was to run.
        against: the method that all others are compared with.

    Raises:
        UnknownNameError: a benchmark is not installed.
    """
    answered: dict[_Place, list[Row]] = defaultdict(list)
    groups: dict[_Clip, str] = {}
    for row in rows:
        answered[_Place(*_side(row.cell), row.measured.group, *_way(row.cell))].append(row)
        groups[_Clip(*_side(row.cell), row.cell.seed, row.clip)] = row.measured.group
    errors: dict[_Place, str] = {}
    for failure in failures:
        group = groups.get(_Clip(*_side(failure.cell), failure.cell.seed, failure.clip), "")
        errors.setdefault(_Place(*_side(failure.cell), group, *_way(failure.cell)), failure.error)

    ways: dict[tuple[str, str], dict[tuple[str, str], None]] = defaultdict(dict)
    for cell in cells:
        ways[_side(cell)][_way(cell)] = None
    for place in (*answered, *errors):
        ways[place.model, place.benchmark][place.method, place.budget] = None
    names: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for place in answered:
        names[place.model, place.benchmark][place.group] = None

    lines = []
    known = cache(levels)
    for side, mine in ways.items():
        found = {way for place in (*answered, *errors) if place[:2] == side for way in [place[3:]]}
        for group in dict.fromkeys([*names[side], ""]):
            for way in mine:
                place = _Place(*side, group, *way)
                if place in answered:
                    other = answered.get(_rival(place, against), [])
                    full = answered.get(_rival(place, UNCOMPRESSED), [])
                    lines.append(_line(place, answered[place], other, full, known(side[1]), against, errors.get(place)))
                elif place in errors or (group == "" and way not in found):
                    lines.append(_empty(place, against, errors.get(place)))
    return lines


def records(lines: Iterable[SummaryRow]) -> list[dict[str, Any]]:
    """One flat record per line and task, `overall` included; comparisons are overall, None is what is not there."""
    return [_record(line, task) for line in lines for task in (*line.accuracies,) or (OVERALL,)]


class _Place(NamedTuple):
    model: str
    benchmark: str
    group: str
    method: str
    budget: str


class _Clip(NamedTuple):
    model: str
    benchmark: str
    seed: int
    clip: str


def _side(cell: Cell) -> tuple[str, str]:
    return cell.model, cell.benchmark


def _way(cell: Cell) -> tuple[str, str]:
    return cell.method, cell.budget


def _rival(place: _Place, method: str) -> _Place:
    return place._replace(method=method, budget=UNCOMPRESSED_BUDGET if method == UNCOMPRESSED else place.budget)


def _line(
    place: _Place,
    rows: Sequence[Row],
    other: Sequence[Row],
    full: Sequence[Row],
    levels: tuple[str, ...],
    against: str,
    error: str | None,
) -> SummaryRow:
    sample = Sample.of(rows, levels)
    accuracies = {task: sample.task(task).accuracy() for task in sample.tasks}
    if accuracies:
        accuracies[OVERALL] = sample.accuracy()
    rival = Pair.of(rows, other, levels) if place != _rival(place, against) else None
    whole = Pair.of(rows, full, levels) if place != _rival(place, UNCOMPRESSED) else None
    clips = {(row.cell.seed, row.clip): row.measured for row in rows}
    return SummaryRow(
        *place,
        against,
        accuracies,
        rival.difference() if rival else None,
        whole.retention() if whole else None,
        *_costs(list(clips.values())),
        questions=len(rows),
        clips=len(clips),
        unscored=sum(row.answered.score is None for row in rows),
        error=error,
    )


def _empty(place: _Place, against: str, error: str | None) -> SummaryRow:
    return SummaryRow(*place, against, {}, None, None, *_costs([]), questions=0, clips=0, error=error)


def _costs(clips: Sequence[Measured]) -> tuple[float, float, float, float, float, float, float, float]:
    return (
        _mean(fmean(clip.entries) for clip in clips),
        _mean(clip.ratio for clip in clips),
        _mean(clip.bytes for clip in clips),
        _mean(clip.peak_bytes for clip in clips),
        _mean(clip.full_bytes for clip in clips),
        _mean(clip.prefill_seconds for clip in clips if not clip.shared),
        _mean(clip.compress_seconds for clip in clips),
        _mean(clip.answer_seconds for clip in clips),
    )


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return fmean(known) if known else math.nan


def _record(line: SummaryRow, task: str) -> dict[str, Any]:
    found = line.accuracies.get(task)
    gap, kept = (line.difference, line.retention) if task == OVERALL else (None, None)
    record = {
        "model": line.model,
        "benchmark": line.benchmark,
        "group": line.group,
        "method": line.method,
        "budget": line.budget,
        "task": task,
        "accuracy": found and found.mean,
        "low": found and found.low,
        "high": found and found.high,
        "questions": found.questions if found else 0,
        "clips": line.clips,
        "videos": found.clusters if found else 0,
        "unscored": line.unscored,
        "retention": kept and kept.mean,
        "retention_low": kept and kept.low,
        "retention_high": kept and kept.high,
        "against": line.against,
        "difference": gap and gap.mean,
        "difference_low": gap and gap.low,
        "difference_high": gap and gap.high,
        "p": gap and gap.p,
        "entries": line.entries,
        "ratio": line.ratio,
        "bytes": line.bytes,
        "peak_bytes": line.peak_bytes,
        "full_bytes": line.full_bytes,
        "prefill_seconds": line.prefill_seconds,
        "compress_seconds": line.compress_seconds,
        "answer_seconds": line.answer_seconds,
        "error": line.error,
    }
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in record.items()
    }
