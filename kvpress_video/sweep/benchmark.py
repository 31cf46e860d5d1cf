"""What a benchmark is: clips with questions, and how an answer is scored. Found by name, as methods are."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..compressor.registry import Registry
from ..errors import BenchmarkError
from ..video.reader import Video, read_video


@dataclass(frozen=True)
class Question:
    """One question about a clip.

    Attributes:
        id: tells it from the other questions about its clip.
        text: all that the model reads beside the video: the question, its options and instructions, as the benchmark
            words them.
        expected: the right answer, as the benchmark writes it.
        task: what the question tests.
        category: a group of tasks, where the benchmark has groups.
        options: what there is to choose from, in order.
        unit: questions of one unit count as one, right only if all of them are; by default each is its own.
    """

    id: str
    text: str
    expected: str
    task: str
    category: str = ""
    options: tuple[str, ...] = ()
    unit: str = ""


@dataclass(frozen=True)
class Clip:
    """A piece of a video, and the questions about it, which share its prefill.

    Attributes:
        name: tells it from the other clips of its benchmark.
        path: the video file.
        questions: at least one.
        video: what intervals are clustered by; clips cut from one video share it.
        group: clips of different groups are reported apart: kinds of camera, lengths of video.
        start, end: the piece, in seconds; the whole video by default.
        fps, frames: video frames to take per second, or in all, as in `read_video`; every one by default.
    """

    name: str
    path: Path
    questions: tuple[Question, ...]
    video: str
    group: str = ""
    start: float | None = None
    end: float | None = None
    fps: float | None = None
    frames: int | None = None


def read_clip(clip: Clip, max_pixels: int | None = None) -> Video:
    """Read the frames of a clip, however many; where the video ends earlier or has fewer frames, those that exist.

    Args:
        max_pixels: pixels per frame above which frames are scaled down while they are read.

    Raises:
        VideoError: the video is missing or unreadable.
    """
    return read_video(
        clip.path,
        fps=clip.fps,
        frames=clip.frames,
        start=clip.start,
        end=clip.end,
        at_most=True,
        max_pixels=max_pixels,
        max_frames=sys.maxsize,
    )


class Benchmark(ABC):
    """A benchmark. Subclasses are frozen dataclasses whose fields are their options.

    Attributes:
        levels: what scores are averaged within before they are averaged over all: `()` for the plain mean over
            questions, `("task",)` for the mean of the tasks' means, `("category", "task")` for that of the
            categories', each of which is the mean of its tasks'.
        max_new_tokens: of an answer.
        source: paper and home.
    """

    levels: ClassVar[tuple[str, ...]] = ()
    max_new_tokens: ClassVar[int] = 16
    source: ClassVar[str] = ""

    @abstractmethod
    def clips(self, seed: int, folder: Path) -> Sequence[Clip]:
        """The clips with their questions, always in the same order.

        Args:
            seed: of whatever is drawn: which clips are made, or which are taken where there is a limit.
            folder: for files that it makes; a benchmark that only reads leaves it alone.

        Raises:
            BenchmarkError: its files are missing or not what they should be.
        """

    def outline(self, seed: int, folder: Path) -> tuple[Clip, Sequence[int]]:
        """The first clip, and how many questions there are about each: as much as an estimate needs.

        Raises:
            BenchmarkError: as `clips`, or there are no clips.
        """
        clips = self.clips(seed, folder)
        if not clips:
            raise BenchmarkError(f"{type(self).__name__} has no clips at seed {seed}.")
        return clips[0], [len(clip.questions) for clip in clips]

    @abstractmethod
    def score(self, question: Question, answer: str) -> float | None:
        """How right an answer is, in [0, 1]; None where only a judge can tell."""


BENCHMARKS: Registry[Benchmark] = Registry("kvpress_video.benchmarks", "benchmark", Benchmark)  # type: ignore[type-abstract]


def same_words(answer: str, expected: str) -> bool:
    """Whether two answers are the same words, whatever their case and final stop."""
    return _words(answer) == _words(expected)


def _words(text: str) -> str:
    return " ".join(text.casefold().strip(" .\n").split())
