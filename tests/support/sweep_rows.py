"""Rows of imaginary sweeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kvpress_video.compression import Report
from kvpress_video.sweep.cells import Cell
from kvpress_video.sweep.results.records import REPORTED, Answered, Done, Measured, Row

MEASURED = Measured(
    report=Report(
        method="tar",
        settings={"recent_ratio": 0.25},
        stage="cache",
        prefill="split",
        positions="keep",
        labels="spread",
        quantize="none",
        asked="50%",
        entries=(64, 66),
        label_entries=(3, 3),
        text_entries=20,
        visual_tokens=128,
        label_tokens=12,
        ratio=0.5,
        bytes=2048,
        peak_bytes=4096,
        full_bytes=8192,
        logical_length=160,
        prefill_seconds=2.0,
        compress_seconds=0.5,
    ),
    video="a.mp4",
    group="still",
    frames=16,
    fps=2.0,
    pixels="112x112",
    answer_seconds=1.0,
    dtype="float32",
    attention="sdpa",
    device="cpu",
    versions={"torch": "2"},
    revision="0123456789abcdef",
)
TASKS = ("needle", "place", "count", "order")

Score = Callable[[int, int], float | None]
"""Of a question: the number of its clip, and its own."""


def remeasured(measured: Measured, cell: Cell | None = None, **changes: Any) -> Measured:
    """Change columns of a measurement, and the cell that its report names."""
    report = {name: changes.pop(name) for name in REPORTED if name in changes}
    if cell is not None:
        report |= {"method": cell.method, "asked": cell.budget}
    return replace(measured, report=replace(measured.report, **report), **changes)


ODD = remeasured(
    MEASURED,
    settings={"recent": 2, "ratio": 0.1 + 0.2, "name": "ü"},
    prefill="auto",
    entries=(12, 13),
    ratio=1 / 3,
    bytes=2**40 + 1,
    peak_bytes=2**41,
    full_bytes=2**42,
    video="v",
    frames=32,
    fps=29.97002997002997,
    prefill_seconds=5e-324,
    compress_seconds=0.1,
    answer_seconds=0.0,
    shared=True,
    device="cpu: x86_64, 2 threads",
    versions={"python": "3.12", "torch": "2.13"},
    revision=None,
)
"""Values that are hard to store exactly."""


def done(cell: Cell, clip: int, score: Score, tasks: tuple[str, ...] = TASKS, **measured: Any) -> Done:
    """Make a finished cell on a clip named after seed and number, with one question per task."""
    name = f"{cell.seed}-{clip:03}.mp4"
    answers = tuple(
        Answered(str(number), task, "", "", f"<video> {task}?", "red", "red", score(clip, number))
        for number, task in enumerate(tasks)
    )
    return Done(cell, name, remeasured(MEASURED, cell, **{"video": name, **measured}), answers)


def rows(cell: Cell, score: Score, clips: int = 6, tasks: tuple[str, ...] = TASKS, **measured: Any) -> list[Row]:
    """Make the rows of several clips."""
    return [row for clip in range(clips) for row in done(cell, clip, score, tasks, **measured).rows]
