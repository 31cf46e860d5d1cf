"""VNBench (VideoNIAH): retrieving, ordering and counting of needles inserted into videos."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from kvpress_video.errors import BenchmarkError
from kvpress_video.sweep.benchmark import Question

from .annotations import find_annotation, need, need_list, read_records
from .dataset import Item, MultipleChoice
from .multiple_choice import letter_of, letters, listed
from .videos import PLACES

ANNOTATION = ("VNBench-main-4try.json", "*/VNBench-main-4try.json", "*4try*.json")
COLUMNS = ("video", "question", "options", "gt", "type", "try")
CATEGORIES = ("ret", "ord", "cnt")
TRIES = 4
PROMPT = "{question}\n{options}\nAnswer with the option's letter from the given choices directly."


@dataclass(frozen=True)
class VNBench(MultipleChoice):
    """VNBench. Each question is asked four times with shuffled options, and is right if all four answers are.

    Its score is the mean of retrieval, ordering and counting, each the mean of its tasks. Prompt and parsing of answers
    are the authors': the alphabetically first letter that occurs before the first full stop.
    """

    title: ClassVar[str] = "VNBench"
    source: ClassVar[str] = "Zhao et al. 2024, arXiv 2406.09367, github.com/joez17/VideoNIAH"
    levels: ClassVar[tuple[str, ...]] = ("category", "task")
    max_new_tokens: ClassVar[int] = 5
    places: ClassVar[tuple[str, ...]] = (*PLACES, "VNBench", "VNBench_new")

    def items(self, root: Path) -> Iterable[Item]:
        """All four tries of each question."""
        file = find_annotation(root, ANNOTATION)
        records = read_records(file)
        for number, record in enumerate(records):
            need(record, COLUMNS, f"{file}, item {number}")
        for video, count in Counter(str(record["video"]) for record in records).items():
            if count != TRIES:
                raise BenchmarkError(f"{file}: {video} is asked about {count} times, not {TRIES}.")
        for number, record in enumerate(records):
            where = f"{file}, item {number}"
            options = tuple(map(str, need_list(record["options"], "options", where)))
            task = str(record["type"])
            category = next((category for category in CATEGORIES if category in task), None)
            if category is None:
                raise BenchmarkError(f"{where}: the type {task!r} is none of {', '.join(CATEGORIES)}.")
            question = Question(
                id=str(record["try"]),
                text=PROMPT.format(question=record["question"], options=listed(options)),
                expected=letter_of(record["gt"], options, where),
                task=task,
                category=category,
                options=options,
                unit=str(record["video"]),
            )
            yield Item(question, str(record["video"]))

    def chosen(self, question: Question, answer: str) -> str:
        """Alphabetically first letter before the first full stop."""
        before = answer.split(".")[0]
        return next((letter for letter in letters(len(question.options)) if letter in before), "")
