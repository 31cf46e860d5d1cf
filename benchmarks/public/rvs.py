"""RVS-Ego and RVS-Movie (VStream-QA): open-ended questions asked while a video runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from kvpress_video.sweep.benchmark import Question

from .annotations import find_annotation, need, need_list, need_number, read_records
from .dataset import Item, LocalCopy
from .judges import judged, load_judge
from .videos import PLACES


@dataclass(frozen=True)
class RVS(LocalCopy):
    """Base class of RVS-Ego and RVS-Movie, in the format distributed by ReKV's authors.

    A prompt has one question, which sees the video up to its `end_time`. The score is the share of answers that a judge
    accepts; without a judge, answers are recorded and not scored. Half a frame per second is from memory of ReKV's
    paper.

    Attributes:
        judge: by name in the entry-point group `kvpress_video.judges`, or `"module:function"`: a function of question,
            right answer and given answer that returns a score from 0 to 1.
    """

    judge: str = ""

    source: ClassVar[str] = "Zhang et al. 2024, arXiv 2406.08085, huggingface.co/datasets/Becomebright/RVS"
    max_new_tokens: ClassVar[int] = 256
    published_frames: ClassVar[int | None] = None
    published_fps: ClassVar[float | None] = 0.5
    annotation: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            BenchmarkError: an option is missing or invalid.
            UnknownNameError: no judge has that name.
        """
        super().__post_init__()
        if self.judge:
            load_judge(self.judge)

    def items(self, root: Path) -> Iterable[Item]:
        """Questions of all conversations."""
        file = find_annotation(root, (self.annotation, f"*/{self.annotation}", f"*/*/{self.annotation}"))
        for number, record in enumerate(read_records(file)):
            need(record, ("video_id", "video_path", "conversations"), f"{file}, item {number}")
            where = f"{file}, video {record['video_id']}"
            for turn, asked in enumerate(need_list(record["conversations"], "conversations", where)):
                need(asked, ("question", "answer", "end_time"), f"{where}, question {turn}")
                question = Question(
                    id=str(turn),
                    text=str(asked["question"]),
                    expected=str(asked["answer"]),
                    task=str(asked.get("answer_type") or "open-ended"),
                )
                end = need_number(asked["end_time"], "end_time", f"{where}, question {turn}")
                yield Item(question, str(record["video_path"]), str(record["video_id"]), end=end)

    def score(self, question: Question, answer: str) -> float | None:
        """Verdict of the judge; None without one."""
        return judged(self.judge, question.text, question.expected, answer) if self.judge else None


@dataclass(frozen=True)
class RVSEgo(RVS):
    """RVS-Ego: hour-long videos from a head-worn camera."""

    title: ClassVar[str] = "RVS-Ego"
    annotation: ClassVar[str] = "ego4d_oe.json"
    places: ClassVar[tuple[str, ...]] = (*PLACES, "ego/videos", "rvs/ego/videos", "ego", "data/rvs/ego/videos")


@dataclass(frozen=True)
class RVSMovie(RVS):
    """RVS-Movie: films, as their key frames."""

    title: ClassVar[str] = "RVS-Movie"
    annotation: ClassVar[str] = "movienet_oe.json"
    places: ClassVar[tuple[str, ...]] = (*PLACES, "movie/videos", "rvs/movie/videos", "movie", "data/rvs/movie/videos")
