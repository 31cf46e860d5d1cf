"""EgoSchema: one question about each of 5,031 three-minute videos from a head-worn camera."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from kvpress_video.errors import BenchmarkError
from kvpress_video.sweep.benchmark import Question

from .annotations import find_annotation, need, read_json, read_records
from .dataset import Item, MultipleChoice
from .multiple_choice import first_letter, letter_at, letters, listed

OPTIONS = tuple(f"option {place}" for place in range(5))
PROMPT = "{question}\n{options}\nAnswer with the option's letter from the given choices directly."


@dataclass(frozen=True)
class EgoSchema(MultipleChoice):
    """EgoSchema. Its score is the mean over questions.

    The authors publish no prompt for video language models: prompt and parsing of answers are lmms-eval's. An answer
    names an option by letter and words, by words alone, or by its letter; else its first option letter counts.

    Attributes:
        split: `"subset"`, the 500 videos with public answers, or `"full"`, which is not scored: `submission` gives
            the numbers for its authors' server.
    """

    split: str = "subset"

    title: ClassVar[str] = "EgoSchema"
    source: ClassVar[str] = "Mangalam et al. 2023, arXiv 2308.09126, github.com/egoschema/EgoSchema"

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            BenchmarkError: an option is missing or invalid.
        """
        super().__post_init__()
        self.one_of("split", ("subset", "full"))

    def items(self, root: Path) -> Iterable[Item]:
        """Questions of the split."""
        file = find_annotation(root, ("questions.json", "*/questions.json"))
        answers = self._answers(root) if self.split == "subset" else {}
        records = read_records(file)
        for number, record in enumerate(records):
            need(record, ("q_uid", "question", *OPTIONS), f"{file}, item {number}")
        unasked = set(answers) - {record["q_uid"] for record in records}
        if unasked:
            raise BenchmarkError(f"{file} has no question {sorted(unasked)[0]!r}, which has an answer.")
        for record in records:
            name = str(record["q_uid"])
            if self.split == "subset" and name not in answers:
                continue
            options = tuple(str(record[option]) for option in OPTIONS)
            question = Question(
                id=name,
                text=PROMPT.format(question=record["question"], options=listed(options)),
                expected=letter_at(answers[name], options, f"the answer to {name}") if name in answers else "",
                task="EgoSchema",
                options=options,
            )
            yield Item(question, name)

    def chosen(self, question: Question, answer: str) -> str:
        """The letter of the option that the answer repeats, or the first letter in it."""
        said = answer.strip().removesuffix(".")
        for letter, option in zip(letters(len(question.options)), question.options, strict=True):
            words = option.strip().removesuffix(".")
            if said in (letter, words, f"{letter}. {words}"):
                return letter
        return first_letter(answer, len(question.options))

    def submission(self, question: Question, answer: str) -> int:
        """Index of the option that an answer names; −1 if it names none."""
        return letters(len(question.options)).find(self.chosen(question, answer) or "-")

    def _answers(self, root: Path) -> dict[str, int]:
        file = find_annotation(root, ("subset_answers.json", "*/subset_answers.json"))
        answers = read_json(file)
        if not isinstance(answers, dict) or not answers:
            raise BenchmarkError(f"{file} should map q_uid to the place of the right option.")
        return answers
