"""Interface of a world to train on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from ...world.files import Clip


@dataclass(frozen=True)
class Drawn:
    """B new clips of T frames with Q questions each.

    Attributes:
        video: (B, T, V, 3, 112, 112) float in 0 … 255: one picture a frame, or both video frames.
        template, name, answer: (B, Q) indices of the template, the name in it, and the answer; larger answers than the
            world has are times of frames.
        targets: (B, T, 16, R) classes that the probe predicts from each visual token.
    """

    video: Tensor
    template: Tensor
    name: Tensor
    answer: Tensor
    targets: Tensor


class TrainingWorld(ABC):
    """An endless source of clips and questions, drawn on a device.

    Attributes:
        name: name of the benchmark.
        templates: wordings of questions, with at most one place for a name.
        names: names for that place.
        answers: all answers but times.
        families: family of each kind of question.
        readings: number of classes of each target of the probe.
        spaced: whether a clip may also represent every second or fourth frame of a longer one, which changes durations.
        stages: lengths of clips in frames, in the order of training.
        mix: relative frequency of each length after its stage.
    """

    name: ClassVar[str]
    templates: ClassVar[Sequence[str]]
    names: ClassVar[Sequence[str]]
    answers: ClassVar[Sequence[str]]
    families: ClassVar[Mapping[str, str]]
    readings: ClassVar[tuple[int, ...]]
    spaced: ClassVar[bool]
    stages: ClassVar[tuple[int, ...]]
    mix: ClassVar[Mapping[int, int]]

    @abstractmethod
    def plan(self, timed: bool) -> tuple[str, ...]:
        """Return the kinds of questions asked about every clip; `timed` models read the time of each frame."""

    @abstractmethod
    def draw(self, moving: Tensor, frames: int, timed: bool, generator: torch.Generator) -> Drawn:
        """Draw a clip for each element of `moving` (B,) bool, on the generator's device."""

    @abstractmethod
    def held_out(self, count: int, frames: int, seed: int, timed: bool, folder: Path) -> list[Clip]:
        """Make clips for evaluation, with the questions of the plan."""

    @abstractmethod
    def video_frames(self, clip: Clip) -> Tensor:
        """Render a clip without encoding it, uint8 `(2 · T, 3, 112, 112)`."""

    def text(self, template: str, name: str) -> str:
        """Return a question about `name`."""
        return template.format(name=name, shape=name)
