"""What a sweep finds out: one measurement per cell and clip, one answer per question; joined, a row."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ..cells import Cell


@dataclass(frozen=True)
class Answered:
    """One answered question; it was read after the video was compressed.

    Attributes:
        question: its id within the clip.
        task, category, unit, expected: of the question.
        prompt: all that the model read; it holds one placeholder for the video.
        answer: what came back.
        score: how right it is, in [0, 1]; None where only a judge can tell.
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
    """What one cell did on one clip.

    Attributes:
        settings: all settings of the method, defaults included.
        stage, prefill, positions: where it compressed, how the prompt was read, what became of positions.
        entries: visual entries held per KV head, one number per layer, measured after the prefill.
        ratio: visual entries held over visual tokens.
        visual_tokens, text_entries: of the prompt.
        bytes, peak_bytes, full_bytes: what the cache holds per question, held at most during the prefill, and what the
            stock cache would hold.
        video, group: of the clip.
        frames, fps, pixels: video frames given to the model, per second, and their height × width.
        prefill_seconds: vision tower and text model up to the last visual token, for this cell; near zero where
            `shared`.
        compress_seconds: in the method.
        answer_seconds: the rest: reading and answering all questions about the clip.
        shared: whether the prefill was that of an earlier cell.
        dtype, attention, device: what answered, and where.
        versions: of Python and the packages.
        revision: of this code, None outside a git checkout.
    """

    settings: dict[str, Any]
    stage: str
    prefill: str
    positions: str
    entries: list[int]
    ratio: float
    visual_tokens: int
    text_entries: int
    bytes: int
    peak_bytes: int
    full_bytes: int
    video: str
    group: str
    frames: int
    fps: float
    pixels: str
    prefill_seconds: float
    compress_seconds: float
    answer_seconds: float
    shared: bool
    dtype: str
    attention: str
    device: str
    versions: dict[str, str]
    revision: str | None


@dataclass(frozen=True)
class Done:
    """A cell that was run on a clip.

    Attributes:
        cell, clip: which, the clip by name.
        measured, answers: what came of it.
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
    """A cell that could not be run on a clip.

    Attributes:
        cell, clip: which, the clip by name.
        error: type and message.
    """

    cell: Cell
    clip: str
    error: str


Outcome = Done | Failure


@dataclass(frozen=True)
class Row:
    """One answered question with everything needed to read it without asking how it was made."""

    cell: Cell
    clip: str
    measured: Measured
    answered: Answered

    def as_dict(self) -> dict[str, Any]:
        """All of it as one flat record of plain types: the columns of every export, in order."""
        return {**vars(self.cell), "clip": self.clip, **vars(self.answered), **vars(self.measured)}


COLUMNS = (
    *(field.name for field in fields(Cell)),
    "clip",
    *(field.name for field in fields(Answered)),
    *(field.name for field in fields(Measured)),
)
