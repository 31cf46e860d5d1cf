"""The benchmark `rooms`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..world.drawn import Drawn
from ..world.files import Clip
from ..world.questions import Question, chosen_families
from .clips import make_clips
from .questions import FAMILIES


@dataclass(frozen=True)
class Rooms(Drawn):
    """Videos of several rooms, with cuts, movers, signs and lookalikes; 13 questions of ten families per clip.

    Attributes:
        count: number of clips.
        frames: frames of each clip, as the model counts them; the file holds twice as many.
        camera: `"still"`, `"moving"`, or `"both"`, alternating.
        level: `"easy"`, `"standard"` or `"hard"`.
        families: families of questions to ask, such as `"needle+order"`; all by default.

    Raises:
        UnknownNameError: a family is unknown.
    """

    frames: int = 64
    level: str = "standard"
    families: str = "+".join(FAMILIES)

    title: ClassVar[str] = "rooms"

    def __post_init__(self) -> None:
        chosen_families(self.families, FAMILIES)

    def make(self, first: int, folder: Path) -> Iterable[Clip]:
        """Make the clips with seeds from `seed` on, or reuse their files."""
        return make_clips(self.count, self.frames, self.camera, first, self.level, folder=folder)

    def asked(self, clip: Clip) -> Iterable[Question]:
        """Return the questions of the chosen families."""
        chosen = chosen_families(self.families, FAMILIES)
        return [question for question in clip.questions if question.family in chosen]
