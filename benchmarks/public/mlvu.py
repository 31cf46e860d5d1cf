"""MLVU: videos of 3 minutes to 2 hours; its multiple-choice tasks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from kvpress_video.errors import unknown_name
from kvpress_video.sweep.benchmark import Question

from .annotations import Record, find_annotation, need, need_list, read_records
from .dataset import Item, MultipleChoice
from .multiple_choice import bracketed_letter, first_letter, known_letter, letter_of, letters, listed
from .videos import PLACES

DEV = {
    "plotQA": "1_plotQA",
    "needle": "2_needle",
    "ego": "3_ego",
    "count": "4_count",
    "order": "5_order",
    "anomaly_reco": "6_anomaly_reco",
    "topic_reasoning": "7_topic_reasoning",
}
"""Tasks of the dev set, and the names of their files and of the folders of their videos."""

TEST = (
    "anomaly_reco",
    "count",
    "ego",
    "needleQA",
    "order",
    "plotQA",
    "sportsQA",
    "topic_reasoning",
    "tutorialQA",
)
TEST_ANNOTATION = ("test-ground-truth/test_mcq_gt.json", "**/test_mcq_gt.json", "**/test_question.json")
COLUMNS = ("video", "question", "candidates", "answer")

PROMPT = (
    "Carefully watch this video and pay attention to every detail. Based on your observations, select the best option "
    "that accurately addresses the question.\n"
    "Question: {question}\n"
    "Options:\n"
    "{options}\n"
    "Only give the best option.\n"
    "Best option: ("
)


@dataclass(frozen=True)
class MLVU(MultipleChoice):
    """MLVU, multiple choice. Its score (M-Avg) is the mean of the tasks' means; the two sets are never mixed.

    The wording is that of its authors' scripts, in which the first sentence is the system prompt and the last line
    starts the answer; here both are part of the question. The authors parse the text before the first closing bracket;
    without a bracket the first option letter counts, so that "B." is accepted as well.

    The file names of the test set are from memory and were not checked.

    Attributes:
        split: `"dev"` (seven tasks, `json/1_plotQA.json` and so on) or `"test"` (nine tasks, one file).
    """

    split: str = "dev"

    title: ClassVar[str] = "MLVU"
    source: ClassVar[str] = "Zhou et al. 2024, arXiv 2406.04264, github.com/JUNJIE99/MLVU"
    levels: ClassVar[tuple[str, ...]] = ("task",)
    places: ClassVar[tuple[str, ...]] = (*PLACES, "MLVU/video", "test_video", "MLVU_Test/video")

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            BenchmarkError: an option is missing or invalid.
            UnknownNameError: the split has no such task.
        """
        super().__post_init__()
        self.one_of("split", ("dev", "test"))
        known = DEV if self.split == "dev" else TEST
        for task in filter(None, self.tasks.split("+")):
            if task not in known:
                raise unknown_name(f"task of {self.title} {self.split}", task, known)

    def items(self, root: Path) -> Iterable[Item]:
        """Questions of the wanted tasks."""
        return self._dev(root) if self.split == "dev" else self._test(root)

    def chosen(self, question: Question, answer: str) -> str:
        """The letter before the first closing bracket, or else the first one."""
        count = len(question.options)
        return bracketed_letter(answer, count) or first_letter(answer, count)

    def _dev(self, root: Path) -> Iterable[Item]:
        for task, name in DEV.items():
            if self.wants(task):
                file = find_annotation(root, (f"json/{name}.json", f"{name}.json", f"MLVU/json/{name}.json"))
                for number, record in enumerate(read_records(file)):
                    yield _item(record, f"{name}-{number}", task, f"{file}, item {number}", f"{name}/")

    def _test(self, root: Path) -> Iterable[Item]:
        file = find_annotation(root, TEST_ANNOTATION)
        for number, record in enumerate(read_records(file)):
            where = f"{file}, item {number}"
            need(record, ("question_id", "question_type", *COLUMNS), where)
            yield _item(record, str(record["question_id"]), str(record["question_type"]), where, "")


def _item(record: Record, name: str, task: str, where: str, folder: str) -> Item:
    need(record, COLUMNS, where)
    options = tuple(map(str, need_list(record["candidates"], "candidates", where)))
    answer = str(record["answer"]).strip()
    is_letter = answer not in map(str.strip, options) and answer in letters(len(options)) and len(answer) == 1
    question = Question(
        id=name,
        text=PROMPT.format(question=record["question"], options=listed(options, "({letter}) {option}")),
        expected=(known_letter if is_letter else letter_of)(answer, options, where),
        task=task,
        options=options,
    )
    return Item(question, f"{folder}{record['video']}")
