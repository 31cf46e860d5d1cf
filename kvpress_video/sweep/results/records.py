"""Records of a sweep: one measurement per cell and clip, one answer per question, and both joined in a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ...compression import Report
from ..cells import Cell

_REPORT_COLUMNS = (
    *("settings", "stage", "prefill", "positions", "labels", "entries", "ratio", "visual_tokens", "text_entries"),
    *("label_entries", "label_tokens", "bytes", "peak_bytes", "full_bytes"),
)
_PER_LAYER = ("entries", "label_entries")
_REPORT_TIMES = ("prefill_seconds", "compress_seconds")
REPORTED = (*_REPORT_COLUMNS, *_REPORT_TIMES, "shared")
"""The fields of a report that are columns. Its method, budget and bits are the cell's; its logical length follows."""


@dataclass(frozen=True)
class Answered:
    """One answered question, read after the video was compressed.

    Attributes:
        question: id of the question within the clip.
        task, category, unit, expected: as in the question.
        prompt: the whole prompt, with one placeholder for the video.
        answer: answer of the model.
        score: score in [0, 1], 1 for a correct answer; None if it needs a judge.
    """

    question: str
    task: str
    category: str
    unit: str
    prompt: str
    answer: str
    expected: str
    score: float | None


@dataclass(frozen=True)
class Measured:
    """The measurement of one cell on one clip.

    Attributes:
        report: report of the compression, with bytes per question, and seconds over all questions about the clip.
        video, group: video and group of the clip.
        frames, fps, pixels: video frames given to the model, per second, and their height × width.
        answer_seconds: seconds for reading and answering all questions about the clip, without prefill and compression.
        dtype, attention, device: those of the model.
        versions: versions of Python and the packages.
        revision: revision of this code, None outside a git checkout.
    """

    report: Report
    video: str
    group: str
    frames: int
    fps: float
    pixels: str
    answer_seconds: float
    dtype: str
    attention: str
    device: str
    versions: dict[str, str]
    revision: str | None

    @classmethod
    def from_columns(cls, cell: Cell, columns: Mapping[str, Any]) -> Measured:
        """Rebuild a measurement from its cell and its columns, as returned by `as_dict`."""
        reported = {name: columns[name] for name in REPORTED} | {name: tuple(columns[name]) for name in _PER_LAYER}
        length = columns["visual_tokens"] + columns["label_tokens"] + columns["text_entries"]
        report = Report(
            method=cell.method, asked=cell.budget, quantize=cell.quantize, logical_length=length, **reported
        )
        return cls(report, **{name: value for name, value in columns.items() if name not in REPORTED})

    def as_dict(self) -> dict[str, Any]:
        """Flatten to plain types by column, in the order of `MEASURED_COLUMNS`."""
        values = vars(self.report) | vars(self) | {name: list(getattr(self.report, name)) for name in _PER_LAYER}
        return {name: values[name] for name in MEASURED_COLUMNS}


@dataclass(frozen=True)
class Done:
    """A cell that ran on a clip.

    Attributes:
        cell: the cell.
        clip: the clip's name.
        measured, answers: the results.
    """

    cell: Cell
    clip: str
    measured: Measured
    answers: tuple[Answered, ...]

    @property
    def rows(self) -> list[Row]:
        """One row per question."""
        return [Row(self.cell, self.clip, self.measured, answer) for answer in self.answers]


@dataclass(frozen=True)
class Failure:
    """A cell that failed on a clip.

    Attributes:
        cell: the cell.
        clip: the clip's name.
        error: type and message.
    """

    cell: Cell
    clip: str
    error: str


Outcome = Done | Failure


@dataclass(frozen=True)
class Row:
    """One answered question, with everything needed to reproduce it."""

    cell: Cell
    clip: str
    measured: Measured
    answered: Answered

    def as_dict(self) -> dict[str, Any]:
        """Flatten to one record of plain types: the columns of every export, in order."""
        return {**vars(self.cell), "clip": self.clip, **vars(self.answered), **self.measured.as_dict()}


CELL_COLUMNS = tuple(field.name for field in fields(Cell))
ANSWERED_COLUMNS = tuple(field.name for field in fields(Answered))
MEASURED_COLUMNS = (
    *_REPORT_COLUMNS,
    *("video", "group", "frames", "fps", "pixels"),
    *_REPORT_TIMES,
    *("answer_seconds", "shared", "dtype", "attention", "device", "versions", "revision"),
)
COLUMNS = (*CELL_COLUMNS, "clip", *ANSWERED_COLUMNS, *MEASURED_COLUMNS)
"""Columns of a row, in the store's view and in every export."""

_TYPES = {field.name: str(field.type) for record in (Report, Measured, Answered, Cell) for field in fields(record)}
ROW_TYPES = {column: _TYPES.get(column, "str") for column in COLUMNS} | dict.fromkeys(_PER_LAYER, "list[int]")
"""The type of each column, as an annotation."""
