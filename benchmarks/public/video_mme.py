"""Video-MME: 900 videos from 11 seconds to an hour, three questions each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from kvpress_video.sweep.benchmark import Question

from .annotations import find_annotation, need, need_list, read_records
from .dataset import Item, MultipleChoice
from .multiple_choice import known_letter, listed, plain_options
from .subtitles import srt_text
from .videos import report_missing

ANNOTATION = ("videomme/*.parquet", "*.parquet", "videomme/*.json*", "*.json*")
COLUMNS = ("videoID", "duration", "domain", "task_type", "question_id", "question", "options", "answer")
SUBTITLES = ("subtitle", "subtitles")

PROMPT = (
    "Select the best answer to the following multiple-choice question based on the video{subtitles}. "
    "Respond with only the letter (A, B, C, or D) of the correct option.\n"
    "{question}\n"
    "{options}\n"
    "The best answer is:"
)
HEAD = "This video's subtitles are listed below:\n{subtitles}\n\n"
NO_SUBTITLES = "No subtitles available"


@dataclass(frozen=True)
class VideoMME(MultipleChoice):
    """Video-MME. Its score is the mean over questions; short, medium and long videos are reported apart.

    Prompt and parsing of answers are its authors'. They show the subtitles of the sampled frames only; here all
    subtitles are shown. A video without subtitles gets lmms-eval's "No subtitles available".

    Attributes:
        subtitles: whether subtitles precede the question, from `subtitle/{videoID}.srt`.
    """

    subtitles: bool = False

    title: ClassVar[str] = "Video-MME"
    source: ClassVar[str] = "Fu et al. 2024, arXiv 2405.21075, github.com/MME-Benchmarks/Video-MME"

    def items(self, root: Path) -> Iterable[Item]:
        """Questions of the Parquet file."""
        file = find_annotation(root, ANNOTATION)
        records = read_records(file)
        for number, record in enumerate(records):
            need(record, COLUMNS, f"{file}, item {number}")
        said = self._subtitles(root, [str(record["videoID"]) for record in records]) if self.subtitles else {}
        for record in records:
            where = f"{file}, question {record['question_id']}"
            options = plain_options(need_list(record["options"], "options", where))
            name = str(record["videoID"])
            prompt = PROMPT.format(
                subtitles=" and the subtitles" if self.subtitles else "",
                question=record["question"],
                options=listed(options),
            )
            question = Question(
                id=str(record["question_id"]),
                text=HEAD.format(subtitles=said.get(name, NO_SUBTITLES)) + prompt if self.subtitles else prompt,
                expected=known_letter(record["answer"], options, where),
                task=str(record["task_type"]),
                category=str(record["domain"]),
                options=options,
            )
            yield Item(question, name, group=str(record["duration"]))

    def _subtitles(self, root: Path, names: list[str]) -> dict[str, str]:
        """Read subtitles by video; a warning lists videos without any."""
        files = {name: [root / place / f"{name}.srt" for place in SUBTITLES] for name in names}
        found = {name: file for name, options in files.items() for file in options if file.is_file()}
        missing = [name for name in files if name not in found]
        report_missing(f"subtitles of {self.title}", missing, len(files), root, SUBTITLES, skip=True)
        return {name: srt_text(file) for name, file in found.items()}
