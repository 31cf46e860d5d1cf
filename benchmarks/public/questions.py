"""Questions of one's own about one's own videos, from a JSON or JSON Lines file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from kvpress_video.errors import BenchmarkError
from kvpress_video.sweep.benchmark import Question, same_words

from .annotations import Record, find_annotation, need, need_list, need_number, read_records
from .dataset import Item, MultipleChoice
from .multiple_choice import letter_of, listed

ANNOTATION = ("questions.jsonl", "questions.json")
KNOWN = ("video", "question", "answer", "options", "task", "group", "start", "end", "id")
CHOOSE = "Answer with the letter of the right option."


@dataclass(frozen=True)
class Questions(MultipleChoice):
    """Questions of one's own. Its score is the mean over questions.

    `questions.jsonl` (or a list in `questions.json`) in the folder has one record per question: `video`, `question` and
    `answer`; where there is a choice, `options`, one of which is the answer; and as wanted `task`, `group`, `id`, and
    `start` and `end` of the part of the video, in seconds. Without options an answer is right if it has the same words.
    """

    title: ClassVar[str] = "Your questions"
    source: ClassVar[str] = "your own"

    def items(self, root: Path) -> Iterable[Item]:
        """Questions of the file."""
        file = find_annotation(root, ANNOTATION)
        for number, record in enumerate(read_records(file)):
            yield _item(record, str(number), f"{file}, item {number}")

    def score(self, question: Question, answer: str) -> float | None:
        """1 for the right option or the right words."""
        if question.options:
            return super().score(question, answer)
        return float(same_words(answer, question.expected))


def _item(record: Record, number: str, where: str) -> Item:
    need(record, ("video", "question", "answer"), where)
    if unknown := [name for name in record if name not in KNOWN]:
        raise BenchmarkError(f"{where}: unknown {', '.join(map(repr, unknown))}. Known: {', '.join(KNOWN)}.")
    text, expected, options = str(record["question"]), str(record["answer"]), tuple[str, ...]()
    if "options" in record:
        options = tuple(map(str, need_list(record["options"], "options", where)))
        text, expected = f"{text}\n{listed(options)}\n{CHOOSE}", letter_of(record["answer"], options, where)
    question = Question(
        id=str(record.get("id", number)),
        text=text,
        expected=expected,
        task=str(record.get("task", "all")),
        options=options,
    )
    part: dict[str, Any] = {name: need_number(record[name], name, where) for name in ("start", "end") if name in record}
    return Item(question, str(record["video"]), group=str(record.get("group", "")), **part)
