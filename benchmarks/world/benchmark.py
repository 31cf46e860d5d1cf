"""The procedural world as a benchmark; missing clips are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from kvpress_video.errors import BenchmarkError
from kvpress_video.sweep.benchmark import Benchmark, Clip, Question, same_words

from .clips import HELD_OUT_SEED, make_clips, when_was_it

APART = 1_000_000
"""How far the first clips of two seeds are apart."""


@dataclass(frozen=True)
class World(Benchmark):
    """Procedural videos of 112 × 112 pixels, and questions that separate the failures of compression.

    Attributes:
        count: number of clips.
        frames: frames of each clip, as the model counts them; the file holds twice as many.
        camera: `"still"`, `"moving"`, or `"both"`, alternating.
        when: whether to ask also at what second a shape flashed, of models that read the time of each frame.
    """

    count: int = 48
    frames: int = 32
    camera: str = "both"
    when: bool = False

    source: ClassVar[str] = "comes with kvpress-video"

    def clips(self, seed: int, folder: Path) -> Sequence[Clip]:
        """Clips of held-out scenes, different for each seed."""
        try:
            made = make_clips(self.count, self.frames, self.camera, HELD_OUT_SEED + seed * APART, folder=folder)
        except (ValueError, OSError) as error:
            raise BenchmarkError(f"Cannot make the clips of the world: {error}") from error
        return [
            Clip(
                name=clip.path.name,
                path=clip.path,
                questions=tuple(
                    Question(str(number), question.text, question.answer, question.family)
                    for number, question in enumerate((*clip.questions, *([when_was_it(clip)] if self.when else [])))
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
