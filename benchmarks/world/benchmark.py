"""The benchmark `world`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .clips import make_clips, when_was_it
from .drawn import Drawn
from .files import Clip
from .questions import Question


@dataclass(frozen=True)
class World(Drawn):
    """Procedural videos of 112 × 112 pixels, with questions that each detect one kind of information loss.

    Attributes:
        count: number of clips.
        frames: frames of each clip, as the model counts them; the file holds twice as many.
        camera: `"still"`, `"moving"`, or `"both"`, alternating.
        when: whether to also ask at what second a shape flashed, for models that read the time of each frame.
    """

    when: bool = False

    title: ClassVar[str] = "the world"

    def make(self, first: int, folder: Path) -> Iterable[Clip]:
        """Make the clips with seeds from `seed` on, or reuse their files."""
        return make_clips(self.count, self.frames, self.camera, first, folder=folder)

    def asked(self, clip: Clip) -> Iterable[Question]:
        """Return the questions about a clip."""
        return (*clip.questions, *([when_was_it(clip)] if self.when else []))
