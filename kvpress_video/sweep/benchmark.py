"""Benchmarks: clips with questions, and the score of an answer; registered through entry points."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..compressor.registry import Registry
from ..errors import BenchmarkError
from ..utils import entry_points
from ..video.reader import Video, read_video


@dataclass(frozen=True)
class Question:
    """One question about a clip.

    Attributes:
        id: unique among the questions about its clip.
        text: the whole text of the prompt: the question, its options and instructions, in the benchmark's wording.
        expected: the correct answer, as the benchmark writes it.
        task: the ability that the question tests.
        category: group of tasks, if the benchmark has groups.
        options: the choices, in order.
        unit: questions with the same unit count as one, correct only if all of them are; one per question by default.
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
    """A video or a part of it, with its questions, which share its prefill.

    Attributes:
        name: unique among the clips of its benchmark.
        path: the video file.
        questions: at least one.
        video: the cluster for intervals; clips cut from one video share it.
        group: groups of clips are reported separately, such as cameras or lengths of video.
        start: start of the part that is shown, in seconds; that of the video by default.
        end: its end, in seconds; that of the video by default.
        fps: video frames to sample per second, as in `read_video`; every one by default.
        frames: video frames to sample in all, instead of `fps`.
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
    """Read the frames of a clip; fewer if the video ends early or has fewer.

    Args:
        clip: the clip to read.
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
        levels: nested averaging levels: `()` for the plain mean over questions, `("task",)` for the mean of the tasks'
            means, `("category", "task")` for the mean of the categories' means, each a mean of its tasks' means.
        max_new_tokens: maximum number of tokens of an answer.
        source: paper and home page.
    """

    levels: ClassVar[tuple[str, ...]] = ()
    max_new_tokens: ClassVar[int] = 16
    source: ClassVar[str] = ""

    @abstractmethod
    def clips(self, seed: int, folder: Path) -> Sequence[Clip]:
        """Return the clips with their questions, in a deterministic order.

        Args:
            seed: seed of all sampling: of generated clips, or of the clips drawn under a limit.
            folder: folder for files that the benchmark generates.

        Raises:
            BenchmarkError: its files are missing or malformed.
        """

    def outline(self, seed: int, folder: Path) -> tuple[Clip, Sequence[int]]:
        """Return the first clip and the number of questions about each clip, for the dry run.

        Raises:
            BenchmarkError: as in `clips`, or there are no clips.
        """
        clips = self.clips(seed, folder)
        if not clips:
            raise BenchmarkError(f"{type(self).__name__} has no clips at seed {seed}.")
        return clips[0], [len(clip.questions) for clip in clips]

    @abstractmethod
    def score(self, question: Question, answer: str) -> float | None:
        """Score an answer in [0, 1], 1 for correct; return None if it needs a judge."""


BENCHMARKS: Registry[Benchmark] = Registry(entry_points.BENCHMARKS, Benchmark)  # type: ignore[type-abstract]


def same_words(answer: str, expected: str) -> bool:
    """Return whether two answers have the same words, ignoring case, spacing and a final full stop."""
    return _words(answer) == _words(expected)


def _words(text: str) -> str:
    return " ".join(text.casefold().strip(" .\n").split())
