"""Base classes of public benchmarks: a folder, and questions about segments of the videos in it."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from kvpress_video.errors import BenchmarkError, unknown_name
from kvpress_video.sweep.benchmark import Benchmark, Clip, Question

from .multiple_choice import first_letter
from .videos import PLACES, find_video, report_missing


@dataclass(frozen=True)
class Item:
    """A question, and the part of a video that may be seen for it.

    Attributes:
        question: the question, with the whole prompt.
        file: name of the video in the annotation.
        video: the video that the part is cut from; `file` by default.
        group: as in `Clip`.
        start, end: the part, in seconds.
        duration: duration of the part in seconds, if known without `start` and `end`.
    """

    question: Question
    file: str
    video: str = ""
    group: str = ""
    start: float | None = None
    end: float | None = None
    duration: float | None = None


@dataclass(frozen=True)
class LocalCopy(Benchmark):
    """A public benchmark, from the files that its authors distribute; nothing is downloaded.

    Questions about the same part of a video make one clip.

    Attributes:
        path: folder of the local copy.
        frames, fps: video frames to sample from each part, in total or per second; by default those of the benchmark's
            own evaluation, or 64 if it does not say.
        limit: number of clips to draw, depending on the seed; all by default.
        missing: `"error"` if videos are missing, or `"skip"` to continue without them, with a warning that lists them.
        tasks: the tasks to include, joined by `+`; all by default.
    """

    path: str = ""
    frames: int | None = None
    fps: float | None = None
    limit: int | None = None
    missing: str = "error"
    tasks: str = ""

    title: ClassVar[str] = ""
    places: ClassVar[tuple[str, ...]] = PLACES
    published_frames: ClassVar[int | None] = 64
    published_fps: ClassVar[float | None] = None
    most_per_second: ClassVar[float] = 8.0
    """No more frames than this per second of a short piece, which would not hold them all."""

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            BenchmarkError: an option is missing or invalid.
        """
        if not self.path:
            raise BenchmarkError(f"{self.title} needs path=…, the folder of its local copy.")
        self.one_of("missing", ("error", "skip"))
        if self.frames is not None and self.fps is not None:
            raise BenchmarkError(f"Give {self.title} either frames or fps, not both.")
        for name in ("frames", "fps", "limit"):
            self.positive(name)

    @abstractmethod
    def items(self, root: Path) -> Iterable[Item]:
        """Questions of the annotation in its order, at least those of the wanted tasks.

        Raises:
            BenchmarkError: the annotation is missing or malformed.
        """

    def clips(self, seed: int, folder: Path) -> Sequence[Clip]:
        """One clip for each part of a video, in the order of the annotation.

        Raises:
            BenchmarkError: the annotation is missing or malformed, or videos are missing.
            UnknownNameError: there is no such task.
        """
        root = Path(self.path).expanduser()
        pieces: dict[tuple[str, float | None, float | None], list[Item]] = {}
        for item in self._asked(list(self.items(root))):
            pieces.setdefault((item.file, item.start, item.end), []).append(item)
        files = self._files(root, list(dict.fromkeys(file for file, _, _ in pieces)))
        clips = [self._clip(items, files[file]) for (file, _, _), items in pieces.items() if file in files]
        if self.limit is None or self.limit >= len(clips):
            return clips
        return [clips[place] for place in sorted(random.Random(seed).sample(range(len(clips)), self.limit))]

    def wants(self, task: str) -> bool:
        """Whether a task is included."""
        return not self.tasks or task in self.tasks.split("+")

    def one_of(self, option: str, known: Iterable[str]) -> None:
        """Check that an option has one of its known values.

        Raises:
            BenchmarkError: it has another one.
        """
        value, known = getattr(self, option), list(known)
        if value not in known:
            raise BenchmarkError(f"{option} of {self.title} is one of {', '.join(known)}, got {value!r}.")

    def positive(self, option: str) -> None:
        """Check that an option is unset or above zero.

        Raises:
            BenchmarkError: it is neither.
        """
        value: Any = getattr(self, option)
        if value is not None and not (isinstance(value, (int, float)) and value > 0):
            raise BenchmarkError(f"{option} of {self.title} must be a number above zero, got {value!r}.")

    def _asked(self, items: list[Item]) -> list[Item]:
        known = {item.question.task for item in items}
        for task in filter(None, self.tasks.split("+")):
            if task not in known:
                raise unknown_name(f"task of {self.title}", task, known)
        return [item for item in items if self.wants(item.question.task)]

    def _files(self, root: Path, names: list[str]) -> dict[str, Path]:
        found = {name: find_video(root, name, self.places) for name in names}
        missing = [name for name, file in found.items() if file is None]
        report_missing(f"videos of {self.title}", missing, len(names), root, self.places, skip=self.missing == "skip")
        return {name: file for name, file in found.items() if file is not None}

    def _clip(self, items: list[Item], file: Path) -> Clip:
        first = items[0]
        ids = [item.question.id for item in items]
        if len(set(ids)) < len(ids):
            twice = next(name for name in ids if ids.count(name) > 1)
            raise BenchmarkError(f"{self.title}: two questions about {first.file} have the id {twice!r}.")
        piece = "" if first.end is None else f"@{first.start or 0:g}-{first.end:g}"
        frames, fps = self._rate(first)
        return Clip(
            name=first.file + piece,
            path=file,
            questions=tuple(item.question for item in items),
            video=first.video or first.file,
            group=first.group,
            start=first.start,
            end=first.end,
            fps=fps,
            frames=frames,
        )

    def _rate(self, item: Item) -> tuple[int | None, float | None]:
        if self.fps is not None or (self.frames is None and self.published_fps is not None):
            return None, self.fps or self.published_fps
        frames = self.frames or self.published_frames
        duration = item.duration if item.end is None else item.end - (item.start or 0)
        if frames is None or duration is None:
            return frames, None
        return min(frames, max(1, int(duration * self.most_per_second))), None


class MultipleChoice(LocalCopy):
    """A public benchmark with multiple-choice answers, scored by the letter that an answer names."""

    def chosen(self, question: Question, answer: str) -> str:
        """Letter of the option that an answer names, empty if it names none."""
        return first_letter(answer, len(question.options))

    def score(self, question: Question, answer: str) -> float | None:
        """1 for the right option, 0 otherwise; None if the right one is not public."""
        return float(self.chosen(question, answer) == question.expected) if question.expected else None
