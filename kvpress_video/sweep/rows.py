"""One row per question: everything needed to read a result without asking how it was made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from .tasks import Cell


@dataclass(frozen=True)
class Row:
    """One answered question; it was read after the video was compressed.

    Attributes:
        method: as asked, settings included.
        settings: all settings of the method, defaults included.
        stage, positions: where it compressed, and what became of positions.
        budget: as asked.
        entries: visual entries held per KV head, one number per layer, measured after the prefill.
        ratio: visual entries held over visual tokens.
        visual_tokens, text_entries: of the prompt.
        bytes, full_bytes: what the cache holds per prompt, and what the stock cache would hold.
        clip, camera, seed: the video.
        frames, fps, pixels: video frames given to the model, per second, and their height × width.
        family, question, prompt: what was asked; the prompt holds one placeholder for the video.
        answer, expected, correct: what came back.
        seconds: for all questions about the clip together, in one batch.
        model, dtype, attention, device: what answered.
        versions: of Python and the packages.
        revision: of this code, None outside a git checkout.
    """

    method: str
    budget: str
    settings: dict[str, Any]
    stage: str
    positions: str
    entries: list[int]
    ratio: float
    visual_tokens: int
    text_entries: int
    bytes: int
    full_bytes: int
    clip: str
    camera: str
    seed: int
    frames: int
    fps: float
    pixels: str
    family: str
    question: str
    prompt: str
    answer: str
    expected: str
    correct: bool
    seconds: float
    model: str
    dtype: str
    attention: str
    device: str
    versions: dict[str, str]
    revision: str | None

    @property
    def cell(self) -> Cell:
        """The cell that this row belongs to."""
        return Cell(self.method, self.budget)

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Row:
        """A row from what `as_dict` gave; unknown fields are ignored."""
        return cls(**{field.name: values[field.name] for field in fields(cls)})


@dataclass(frozen=True)
class Failure:
    """A cell that could not be run on a clip."""

    method: str
    budget: str
    clip: str
    error: str

    @property
    def cell(self) -> Cell:
        """The cell that failed."""
        return Cell(self.method, self.budget)

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)
