"""The clips of rooms as a benchmark; missing clips are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from kvpress_video.errors import BenchmarkError
from kvpress_video.sweep.benchmark import Benchmark, Clip, Question, same_words

from ..world.benchmark import APART
from ..world.clips import HELD_OUT_SEED
from .clips import make_clips


@dataclass(frozen=True)
class Rooms(Benchmark):
    """Videos of several rooms, with cuts, movers, signs to read and lookalikes; 13 questions of ten families a clip.

    Attributes:
        count: number of clips.
        frames: frames of each clip, as the model counts them; the file holds twice as many.
        camera: `"still"`, `"moving"`, or `"both"`, alternating.
        level: `"easy"`, `"standard"` or `"hard"`.
    """

    count: int = 48
    frames: int = 64
    camera: str = "both"
    level: str = "standard"

    source: ClassVar[str] = "comes with kvpress-video"

    def clips(self, seed: int, folder: Path) -> Sequence[Clip]:
        """Clips of held-out scenes, different for each seed."""
        try:
            first = HELD_OUT_SEED + seed * APART
            made = make_clips(self.count, self.frames, self.camera, first, self.level, folder=folder)
        except (ValueError, OSError) as error:
            raise BenchmarkError(f"Cannot make the clips of rooms: {error}") from error
        return [
            Clip(
                name=clip.path.name,
                path=clip.path,
                questions=tuple(
                    Question(str(number), question.text, question.answer, question.family)
                    for number, question in enumerate(clip.questions)
                ),
                video=clip.path.name,
                group=clip.camera,
            )
            for clip in made
        ]

    def outline(self, seed: int, folder: Path) -> tuple[Clip, Sequence[int]]:
        """Outline of the benchmark, from one clip: all have the same number of questions."""
        [first] = replace(self, count=min(self.count, 1)).clips(seed, folder)
        return first, [len(first.questions)] * self.count

    def score(self, question: Question, answer: str) -> float:
        """1 for the right words, ignoring case and a final stop."""
        return float(same_words(answer, question.expected))
