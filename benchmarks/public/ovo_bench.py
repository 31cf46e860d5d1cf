"""OVO-Bench: questions about the past, the present and the sufficiency of what was seen, at given times of a video."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import ClassVar

from kvpress_video.errors import BenchmarkError
from kvpress_video.sweep.benchmark import Question

from .annotations import Record, find_annotation, need, need_list, need_number, read_records
from .dataset import Item, LocalCopy
from .multiple_choice import letter_at
from .videos import PLACES

CATEGORIES = {
    "backward": ("EPM", "ASI", "HLD"),
    "realtime": ("STU", "OJR", "ATR", "ACR", "OCR", "FPD"),
    "forward": ("REC", "SSR", "CRR"),
}
CHOICE = (
    "Question: {question}\n"
    "Options:\n"
    "{options}\n\n"
    "Respond only with the letter corresponding to your chosen option (e.g., A, B, C). \n"
    "Do not include any additional text or explanation in your response."
)
FORWARD = {
    "REC": (
        "You're watching a video in which people may perform a certain type of action repetively. \n"
        "The person performing this kind of action are referred to as 'they' in the following statement.\n"
        "You're task is to count how many times have different people in the video perform this kind of action in "
        "total.\n"
        "One complete motion counts as one. \n"
        "Now, answer the following question: How many times did they {asked}?\n"
        "Provide your answer as a single number (e.g., 0, 1, 2, 3…) indicating the total count.\n"
        "Do not include any additional text or explanation in your response."
    ),
    "SSR": (
        "You're watching a tutorial video which contain a sequential of steps. \n"
        "The following is one step from the whole procedures: \n"
        "{asked}\n"
        "Your task is to determine if the man or woman in the video is currently performing this step.\n"
        "Answer only with “Yes” or “No”.\n"
        "Do not include any additional text or explanation in your response."
    ),
    "CRR": (
        "You're responsible of answering questions based on the video content. \n"
        "The following question are relevant to the latest frames, i.e. the end of the video.\n"
        "{asked}\n"
        "Decide whether existing visual content, especially latest frames, i.e. frames that near the end of the video, "
        "provide enough information for answering the question.\n"
        "Answer only with “Yes” or “No”.\n"
        "Do not include any additional text or explanation in your response."
    ),
}


@dataclass(frozen=True)
class OVOBench(LocalCopy):
    """OVO-Bench. Its score is the mean of backward, real-time and forward, each the mean of its tasks, as in the paper.

    (The total printed by the authors' script is the mean of the twelve tasks instead.) Prompts and parsing of answers
    are the authors': an answer is right if the letter, or "Yes" or "No", occurs in it; a count is the number that all
    digits of the answer make. A question sees the video up to its time.

    Attributes:
        chunked: whether the local copy holds the cut videos, `chunked_videos/{id}.mp4` and
            `chunked_videos/{id}_{number}.mp4`, and not their sources.
    """

    chunked: bool = False

    title: ClassVar[str] = "OVO-Bench"
    source: ClassVar[str] = "Li et al. 2025, arXiv 2501.05510, github.com/JoeLeelyf/OVO-Bench"
    levels: ClassVar[tuple[str, ...]] = ("category", "task")
    max_new_tokens: ClassVar[int] = 128
    places: ClassVar[tuple[str, ...]] = (
        *PLACES, "src_videos", "data/src_videos", "chunked_videos", "data/chunked_videos", "videos/chunked_videos",
    )  # fmt: skip

    def items(self, root: Path) -> Iterable[Item]:
        """Questions; one per time if an item has several."""
        file = find_annotation(root, ("ovo_bench_new.json", "data/ovo_bench_new.json", "ovo_bench*.json"))
        for number, record in enumerate(read_records(file)):
            need(record, ("id", "task", "video"), f"{file}, item {number}")
            where = f"{file}, item {record['id']}"
            task = str(record["task"])
            category = next((name for name, tasks in CATEGORIES.items() if task in tasks), None)
            if category is None:
                raise BenchmarkError(f"{where}: unknown task {task!r}.")
            asked = _forward(record, where) if category == "forward" else _choice(record, where)
            for name, text, expected, options, time in asked:
                question = Question(name, text, expected, task, category, options)
                source = str(record["video"])
                yield Item(question, f"{name}.mp4", source) if self.chunked else Item(question, source, end=time)

    def score(self, question: Question, answer: str) -> float:
        """Score an answer by the authors' rule for its kind of task."""
        if question.task == "REC":
            return float("".join(re.findall(r"\d+", answer)) == question.expected)
        short = question.task in ("SSR", "CRR") and answer == question.expected[0]
        return float(short or question.expected in answer)


Asked = tuple[str, str, str, tuple[str, ...], float]
"""Name, prompt, right answer, options, and when it is asked."""


def _choice(record: Record, where: str) -> Iterable[Asked]:
    need(record, ("realtime", "question", "options", "gt"), where)
    options = tuple(map(str, need_list(record["options"], "options", where)))
    listed = "; ".join(f"{letter}. {option}" for letter, option in zip(ascii_uppercase, options, strict=False))
    text = CHOICE.format(question=record["question"], options=f"{listed};")
    time = need_number(record["realtime"], "realtime", where)
    yield str(record["id"]), text, letter_at(record["gt"], options, where), options, time


def _forward(record: Record, where: str) -> Iterable[Asked]:
    task = str(record["task"])
    need(record, ("test_info", *{"REC": ("activity",), "SSR": (), "CRR": ("question",)}[task]), where)
    for number, test in enumerate(need_list(record["test_info"], "test_info", where)):
        at = f"{where}, test {number}"
        need(test, ("realtime", *{"REC": ("count",), "SSR": ("step", "type"), "CRR": ("type",)}[task]), at)
        asked = {"REC": record.get("activity"), "SSR": test.get("step"), "CRR": record.get("question")}[task]
        expected = str(test["count"]) if task == "REC" else _yes_or_no(test["type"], at)
        time = need_number(test["realtime"], "realtime", at)
        yield f"{record['id']}_{number}", FORWARD[task].format(asked=asked), expected, (), time


def _yes_or_no(value: object, where: str) -> str:
    if value not in (0, 1):
        raise BenchmarkError(f"{where}: the type {value!r} is neither 0 (no) nor 1 (yes).")
    return "Yes" if value else "No"
