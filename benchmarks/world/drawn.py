"""Worlds that are drawn, as benchmarks: missing clips are made."""

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
"""How far the first clips of two seeds are apart."""


@dataclass(frozen=True)
class Drawn(Benchmark):
    """Videos drawn from seeds, and questions about them.

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
        """Make or reuse the files of the clips that begin with a seed."""

    def asked(self, clip: File) -> Iterable[Asked]:
        """Return the questions about a clip."""
        return clip.questions

    def clips(self, seed: int, folder: Path) -> Sequence[Clip]:
        """Clips of held-out scenes, different for each seed."""
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
        """Outline of the benchmark, from one clip: all have the same number of questions."""
        [first] = replace(self, count=min(self.count, 1)).clips(seed, folder)
        return first, [len(first.questions)] * self.count

    def score(self, question: Question, answer: str) -> float:
        """1 for the right words, ignoring case and a final stop."""
        return float(same_words(answer, question.expected))
