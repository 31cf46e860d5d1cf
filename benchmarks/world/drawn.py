"""Base class of benchmarks that generate their clips."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from kvpress_video.errors import BenchmarkError
from kvpress_video.sweep.benchmark import Benchmark, Clip, Question, same_words

from .clips import HELD_OUT_SEED
from .files import Clip as File
from .questions import Question as Asked

APART = 1_000_000
"""Difference between the first clip seeds of consecutive benchmark seeds."""


@dataclass(frozen=True)
class Drawn(Benchmark):
    """A benchmark of videos generated from seeds, with questions about them.

    Attributes:
        count: number of clips.
        frames: frames of each clip, as the model counts them; the file holds twice as many.
        camera: `"still"`, `"moving"`, or `"both"`, alternating.
    """

    count: int = 48
    frames: int = 32
    camera: str = "both"

    source: ClassVar[str] = "comes with kvpress-video"
    title: ClassVar[str]

    @abstractmethod
    def make(self, first: int, folder: Path) -> Iterable[File]:
        """Make the clips with seeds from `seed` on, or reuse their files."""

    def asked(self, clip: File) -> Iterable[Asked]:
        """Return the questions about a clip."""
        return clip.questions

    def clips(self, seed: int, folder: Path) -> Sequence[Clip]:
        """Return clips of held-out scenes, different for each seed."""
        try:
            made = self.make(HELD_OUT_SEED + seed * APART, folder)
        except (ValueError, OSError) as error:
            raise BenchmarkError(f"Cannot make the clips of {self.title}: {error}") from error
        return [
            Clip(
                name=clip.path.name,
                path=clip.path,
                questions=tuple(
                    Question(str(number), question.text, question.answer, question.family)
                    for number, question in enumerate(self.asked(clip))
                ),
                video=clip.path.name,
                group=clip.camera,
            )
            for clip in made
        ]

    def outline(self, seed: int, folder: Path) -> tuple[Clip, Sequence[int]]:
        """Outline the benchmark from one clip; all clips have the same number of questions."""
        [first] = replace(self, count=min(self.count, 1)).clips(seed, folder)
        return first, [len(first.questions)] * self.count

    def score(self, question: Question, answer: str) -> float:
        """Return 1 for the correct words, ignoring case and a final full stop, else 0."""
        return float(same_words(answer, question.expected))
