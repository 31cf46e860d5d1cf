"""The clips of rooms as a benchmark."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..world.drawn import Drawn
from ..world.files import Clip
from .clips import make_clips


@dataclass(frozen=True)
class Rooms(Drawn):
    """Videos of several rooms, with cuts, movers, signs to read and lookalikes; 13 questions of ten families a clip.

    Attributes:
        count: number of clips.
        frames: frames of each clip, as the model counts them; the file holds twice as many.
        camera: `"still"`, `"moving"`, or `"both"`, alternating.
        level: `"easy"`, `"standard"` or `"hard"`.
    """

    frames: int = 64
    level: str = "standard"

    title: ClassVar[str] = "rooms"

    def make(self, first: int, folder: Path) -> Iterable[Clip]:
        """Make or reuse the files of the clips that begin with a seed."""
        return make_clips(self.count, self.frames, self.camera, first, self.level, folder=folder)
