"""LongVideoBench: questions that refer to a moment of a video of up to an hour."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from kvpress_video.sweep.benchmark import Question

from .annotations import Record, find_annotation, need, need_list, need_number, read_records
from .dataset import Item, MultipleChoice
from .multiple_choice import letter_at, listed
from .subtitles import json_text
from .videos import report_missing

ANNOTATION = {"val": ("lvb_val.json",), "test": ("lvb_test_wo_gt.json",)}
COLUMNS = ("id", "video_path", "question", "candidates", "duration", "duration_group", "question_category")
SUBTITLES = ("subtitles", "subtitle")

PROMPT = "Question: {question}\n{options}\nAnswer with the option's letter from the given choices directly."


@dataclass(frozen=True)
class LongVideoBench(MultipleChoice):
    """LongVideoBench. Its score is the mean over questions; groups of duration are reported apart.

    The wording is that of its authors' data loader. The loader puts subtitles right after the frame they cover; here
    those of the whole part precede the question. An answer without a letter counts as wrong, while the authors draw a
    letter at random. Frames are at most one a second, as in the loader.

    Attributes:
        split: `"val"`, or `"test"`, whose answers are not public: it is asked, and not scored.
        subtitles: whether subtitles precede the question, from `subtitles/`.
    """

    split: str = "val"
    subtitles: bool = False

    title: ClassVar[str] = "LongVideoBench"
    source: ClassVar[str] = "Wu et al. 2024, arXiv 2407.15754, github.com/longvideobench/LongVideoBench"
    max_new_tokens: ClassVar[int] = 32
    most_per_second: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            BenchmarkError: an option is missing or invalid.
        """
        super().__post_init__()
        self.one_of("split", ANNOTATION)

    def items(self, root: Path) -> Iterable[Item]:
        """Questions of the split."""
        file = find_annotation(root, ANNOTATION[self.split])
        records = read_records(file)
        columns = (
            *COLUMNS,
            *(("correct_choice",) if self.split == "val" else ()),
            *(("subtitle_path", "starting_timestamp_for_subtitles") if self.subtitles else ()),
        )
        for number, record in enumerate(records):
            need(record, columns, f"{file}, item {number}")
        said = self._subtitles(root, records) if self.subtitles else {}
        for record in records:
            where = f"{file}, question {record['id']}"
            options = tuple(map(str, need_list(record["candidates"], "candidates", where)))
            prompt = PROMPT.format(question=record["question"], options=listed(options))
            duration = need_number(record["duration"], "duration", where)
            if self.subtitles:
                if str(record["subtitle_path"]) not in said:
                    continue
                offset = need_number(record["starting_timestamp_for_subtitles"], "the start of the subtitles", where)
                prompt = json_text(said[str(record["subtitle_path"])], offset, duration) + "\n" + prompt
            question = Question(
                id=str(record["id"]),
                text=prompt,
                expected=letter_at(record["correct_choice"], options, where) if self.split == "val" else "",
                task=str(record["question_category"]),
                options=options,
            )
            yield Item(question, str(record["video_path"]), group=str(record["duration_group"]), duration=duration)

    def _subtitles(self, root: Path, records: list[Record]) -> dict[str, Path]:
        names = list(dict.fromkeys(str(record["subtitle_path"]) for record in records))
        files = {name: root / place / name for name in names for place in SUBTITLES if (root / place / name).is_file()}
        missing = [name for name in names if name not in files]
        skip = self.missing == "skip"
        report_missing(f"subtitles of {self.title}", missing, len(names), root, SUBTITLES, skip=skip)
        return files
