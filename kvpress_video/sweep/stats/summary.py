"""Summary of a sweep: one row per method and budget, with accuracies, comparisons and costs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

from ...budget import UNCOMPRESSED, UNCOMPRESSED_BUDGET
from ..cells import Cell
from ..results.records import Failure, Row
from .inference import Difference, Interval, compare, retention
from .pairing import PairedSamples, Sample, levels

OVERALL = "overall"


@dataclass(frozen=True)
class SummaryRow:
    """One method at one budget, on one group of a benchmark's clips, with one model; seeds are pooled.

    Costs, from `entries` to `answer_seconds`, are means over clips; nan without clips.

    Attributes:
        model: as in the cells.
        benchmark: as in the cells.
        budget: as in the cells.
        method: `Cell.name`, with the bits of quantisation.
        group: group of clips; empty for cells without a finished clip.
        against: the method it is compared with at the same budget; the full cache is at 100%.
        accuracies: accuracies by task, and `overall`; empty if nothing was scored.
        difference: difference from that method on the same questions; None for itself, or if it was not run.
        retention: accuracy relative to the full cache; None for the full cache itself, or if it was not run.
        entries: visual entries held per layer and KV head.
        ratio: visual entries held over visual tokens.
        bytes: size of the cache per question, after the prefill.
        peak_bytes: its size at the peak.
        full_bytes: size of the stock cache.
        prefill_seconds: seconds of prefill, over clips whose prefill was not shared.
        compress_seconds: seconds in the method.
        answer_seconds: seconds for reading and answering all questions about a clip.
        questions: number of answered questions.
        clips: number of their clips.
        unscored: answers that need a judge, excluded from accuracies.
        error: the first error of a cell that failed on some clip.
    """

    model: str
    benchmark: str
    group: str
    method: str
    budget: str
    against: str
    accuracies: dict[str, Interval]
    difference: Difference | None
    retention: Interval | None
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

    @property
    def place(self) -> str:
        """Model, benchmark and group, for captions."""
        return ", ".join(filter(None, (self.model, self.benchmark, self.group)))


def summarise(
    rows: Iterable[Row], failures: Iterable[Failure], cells: Sequence[Cell], against: str = UNCOMPRESSED
) -> list[SummaryRow]:
    """Summarise a sweep, in the order of the cells' models and benchmarks, then of groups, then of cells.

    Cells that never ran or failed on every clip have a row too, without accuracies. Its group is empty unless other
    cells show which group the failed clips belong to.

    Args:
        rows, failures: rows and failures of the sweep.
        cells: requested cells.
        against: the method to compare all others with.

    Raises:
        UnknownNameError: a benchmark is not installed.
    """
    answered: dict[_Key, list[Row]] = defaultdict(list)
    groups: dict[_Clip, str] = {}
    for row in rows:
        answered[_Key(*_suite(row.cell), row.measured.group, *_candidate(row.cell))].append(row)
        groups[_Clip(*_suite(row.cell), row.cell.seed, row.clip)] = row.measured.group
    errors: dict[_Key, str] = {}
    for failure in failures:
        group = groups.get(_Clip(*_suite(failure.cell), failure.cell.seed, failure.clip), "")
        errors.setdefault(_Key(*_suite(failure.cell), group, *_candidate(failure.cell)), failure.error)

    candidates: dict[tuple[str, str], dict[tuple[str, str], None]] = defaultdict(dict)
    for cell in cells:
        candidates[_suite(cell)][_candidate(cell)] = None
    for key in (*answered, *errors):
        candidates[key.suite][key.candidate] = None
    groups_of: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for key in answered:
        groups_of[key.suite][key.group] = None

    summary = []
    for suite, of_suite in candidates.items():
        started = {key.candidate for key in (*answered, *errors) if key.suite == suite}
        for group in dict.fromkeys([*groups_of[suite], ""]):
            for candidate in of_suite:
                key = _Key(*suite, group, *candidate)
                if key in answered or key in errors or (group == "" and candidate not in started):
                    summary.append(_row(key, answered, against, errors.get(key)))
    return summary


def records(summary: Iterable[SummaryRow]) -> list[dict[str, Any]]:
    """Flatten to one record per row and task, `overall` included; comparisons are overall, missing values None."""
    return [_record(row, task) for row in summary for task in (*row.accuracies,) or (OVERALL,)]


class _Key(NamedTuple):
    """The identity of a summary row."""

    model: str
    benchmark: str
    group: str
    method: str
    budget: str

    @property
    def suite(self) -> tuple[str, str]:
        return self.model, self.benchmark

    @property
    def candidate(self) -> tuple[str, str]:
        return self.method, self.budget

    def of(self, method: str) -> _Key:
        """Return the key of another method at the same budget; the full cache is at 100%."""
        return self._replace(method=method, budget=UNCOMPRESSED_BUDGET if method == UNCOMPRESSED else self.budget)


class _Clip(NamedTuple):
    model: str
    benchmark: str
    seed: int
    clip: str


def _suite(cell: Cell) -> tuple[str, str]:
    return cell.model, cell.benchmark


def _candidate(cell: Cell) -> tuple[str, str]:
    return cell.name, cell.budget


def _row(key: _Key, answered: Mapping[_Key, Sequence[Row]], against: str, error: str | None) -> SummaryRow:
    rows = answered.get(key, [])
    averaging = levels(key.benchmark) if rows else ()
    sample = Sample.of(rows, averaging)
    accuracies = {task: sample.task(task).accuracy() for task in sample.tasks}
    if accuracies:
        accuracies[OVERALL] = sample.accuracy()

    def paired(method: str) -> PairedSamples | None:
        other = key.of(method)
        return PairedSamples.of(rows, answered.get(other, []), averaging) if other != key else None

    with_reference, with_full = paired(against), paired(UNCOMPRESSED)
    clips = list({(row.cell.seed, row.clip): row.measured for row in rows}.values())
    reports = [clip.report for clip in clips]
    return SummaryRow(
        *key,
        against=against,
        accuracies=accuracies,
        difference=compare(with_reference.scores) if with_reference else None,
        retention=retention(with_full.scores) if with_full else None,
        entries=_mean(fmean(report.entries) for report in reports),
        ratio=_mean(report.ratio for report in reports),
        bytes=_mean(report.bytes for report in reports),
        peak_bytes=_mean(report.peak_bytes for report in reports),
        full_bytes=_mean(report.full_bytes for report in reports),
        prefill_seconds=_mean(report.prefill_seconds for report in reports if not report.shared),
        compress_seconds=_mean(report.compress_seconds for report in reports),
        answer_seconds=_mean(clip.answer_seconds for clip in clips),
        questions=len(rows),
        clips=len(clips),
        unscored=sum(row.answered.score is None for row in rows),
        error=error,
    )


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return fmean(known) if known else math.nan


def _record(row: SummaryRow, task: str) -> dict[str, Any]:
    found = row.accuracies.get(task)
    gap, kept = (row.difference, row.retention) if task == OVERALL else (None, None)
    record = {
        "model": row.model,
        "benchmark": row.benchmark,
        "group": row.group,
        "method": row.method,
        "budget": row.budget,
        "task": task,
        "accuracy": found and found.mean,
        "low": found and found.low,
        "high": found and found.high,
        "questions": found.questions if found else 0,
        "clips": row.clips,
        "videos": found.clusters if found else 0,
        "unscored": row.unscored,
        "retention": kept and kept.mean,
        "retention_low": kept and kept.low,
        "retention_high": kept and kept.high,
        "against": row.against,
        "difference": gap and gap.mean,
        "difference_low": gap and gap.low,
        "difference_high": gap and gap.high,
        "p": gap and gap.p,
        "entries": row.entries,
        "ratio": row.ratio,
        "bytes": row.bytes,
        "peak_bytes": row.peak_bytes,
        "full_bytes": row.full_bytes,
        "prefill_seconds": row.prefill_seconds,
        "compress_seconds": row.compress_seconds,
        "answer_seconds": row.answer_seconds,
        "error": row.error,
    }
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in record.items()
    }
