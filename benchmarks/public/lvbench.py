"""LVBench: 103 videos of more than half an hour."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from kvpress_video.sweep.benchmark import Question

from .annotations import Record, find_annotation, need, need_list, read_records
from .dataset import Item, MultipleChoice
from .multiple_choice import bracketed_letter, first_letter, known_letter, listed, plain_options
from .videos import PLACES

ANNOTATION = ("video_info.meta.jsonl", "data/video_info.meta.jsonl", "*.jsonl", "*.json", "*.parquet", "data/*.parquet")
OPTION = re.compile(r"^\(([A-Z])\)", re.MULTILINE)
PROMPT = "{question}\nAnswer the question with the option letter"


@dataclass(frozen=True)
class LVBench(MultipleChoice):
    """LVBench. Its score is the mean over questions.

    Both forms of its annotation are read: the authors' JSON lines, one video per line with its questions and options,
    and that of lmms-eval, one question per row. The authors publish no prompt: this is lmms-eval's. Answers are parsed
    as the authors do, by the letter inside the first brackets; without brackets, by the first option letter, while the
    authors take the first character.

    A question may test several abilities; together they make one task: "entity recognition, reasoning".
    """

    title: ClassVar[str] = "LVBench"
    source: ClassVar[str] = "Wang et al. 2024, arXiv 2406.08035, github.com/zai-org/LVBench"
    places: ClassVar[tuple[str, ...]] = (*PLACES, "all_videos", "scripts/videos")

    def items(self, root: Path) -> Iterable[Item]:
        """Questions of either form of the annotation."""
        file = find_annotation(root, ANNOTATION)
        for number, record in enumerate(read_records(file)):
            where = f"{file}, item {number}"
            if "qa" in record:
                need(record, ("key", "qa"), where)
                for qa in need_list(record["qa"], "qa", where):
                    need(qa, ("uid", "question", "answer"), where)
                    yield _item(qa, str(qa["uid"]), str(record["key"]), f"{file}, question {qa['uid']}")
            else:
                need(record, ("video_path", "question", "options", "answer"), where)
                yield _item(record, str(record.get("uid", number)), str(record["video_path"]), where)

    def chosen(self, question: Question, answer: str) -> str:
        """The letter inside the first brackets, or else the first one."""
        count = len(question.options)
        return bracketed_letter(answer, count) or first_letter(answer, count)


def _item(record: Record, name: str, video: str, where: str) -> Item:
    asked, options = _options(record, where)
    kinds: Any = record.get("question_type") or ["LVBench"]
    question = Question(
        id=name,
        text=PROMPT.format(question=asked),
        expected=known_letter(record["answer"], options, where),
        task=kinds if isinstance(kinds, str) else ", ".join(map(str, kinds)),
        options=options,
    )
    return Item(question, video)


def _options(record: Record, where: str) -> tuple[str, tuple[str, ...]]:
    """The question with its options, and the options."""
    asked = str(record["question"])
    inside = OPTION.search(asked)
    if inside:
        return asked, plain_options(re.split(r"\n(?=\([A-Z]\))", asked[inside.start() :].strip()))
    options = plain_options(need_list(record.get("options"), "options", where))
    return f"{asked}\n{listed(options, '({letter}) {option}')}", options
