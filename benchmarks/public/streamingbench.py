"""StreamingBench: questions asked while a video plays; later frames must not be seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from kvpress_video.errors import BenchmarkError
from kvpress_video.sweep.benchmark import Question

from .annotations import Record, find_annotation, need, need_list, read_json, seconds
from .dataset import Item, MultipleChoice
from .multiple_choice import known_letter, listed, plain_options
from .videos import PLACES

PARTS = ("real", "omni", "sqa")

PROMPT = (
    "You are an advanced video question-answering AI assistant. You have been provided with some frames from the video "
    "and a multiple-choice question related to the video. Your task is to carefully analyze the video and provide the "
    "best answer to question, choosing from the four options provided. Respond with only the letter (A, B, C, or D) of "
    "the correct option.\n\n"
    "Question: {question}\n\n"
    "Options:\n{options}\n\n"
    "The best option is:"
)
SEQUENTIAL = (
    "You are an advanced video question-answering AI assistant. You have been provided with a video and a "
    "multiple-choice question related to the video. Your task is to carefully analyze the video and the provided "
    "context to answer the question, choosing from the four options provided. Respond with only the letter "
    "(A, B, C, or D) of the correct option.\n\n"
    "{context}\n\n"
    "Here is the question. Answer it and don't confuse it with the previous conversation.\n"
    "Question: {question}\n\n"
    "Options:\n{options}\n\n"
    "The best option is:"
)
CONTEXT = (
    "Here are the contextual information related to the video. Please answer the questions based on the contextual "
    "information: "
)
TURN = (
    "At timestamp {stamp}, the following question and answer occurred: Question: {question}; Options: {options}; "
    "Answer: {answer}; "
)


@dataclass(frozen=True)
class StreamingBench(MultipleChoice):
    """StreamingBench. Its score is the mean over the questions of a part.

    Prompts and windows are those of its authors' scripts: a question sees the video up to its time stamp. The authors
    compare the first character of the answer; here the first option letter counts, which is the same if the answer
    begins with one. One frame per second, for models such as Qwen2-VL, is from memory of the paper and was not checked.

    The proactive part, which asks once a second until the model says yes, is not supported.

    Attributes:
        part: `"real"`, real-time visual understanding; `"omni"`, which includes sound; or `"sqa"`, sequential
            questions, each preceded by the earlier ones with their right answers.
        context: seconds before the question that may be seen, 60 in the paper's main table; all by default.
    """

    part: str = "real"
    context: float | None = None

    title: ClassVar[str] = "StreamingBench"
    source: ClassVar[str] = "Lin et al. 2024, arXiv 2411.03628, github.com/THUNLP-MT/StreamingBench"
    places: ClassVar[tuple[str, ...]] = (*PLACES, *PARTS, *(f"data/{part}" for part in PARTS))
    published_frames: ClassVar[int | None] = None
    published_fps: ClassVar[float | None] = 1.0

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            BenchmarkError: an option is missing or invalid.
        """
        super().__post_init__()
        if self.part == "proactive":
            raise BenchmarkError(
                "The proactive part of StreamingBench asks once a second until the model says yes; a sweep asks every "
                f"question once. Choose another part: {', '.join(PARTS)}."
            )
        self.one_of("part", PARTS)
        self.positive("context")

    def items(self, root: Path) -> Iterable[Item]:
        """Questions of the part."""
        name = f"questions_{self.part}.json"
        file = find_annotation(root, (name, f"*/{name}", f"src/data/{name}"))
        for number, (record, before) in enumerate(_in_order(file)):
            where = f"{file}, question {number}"
            options = _options(record, where)
            prompt = (SEQUENTIAL if self.part == "sqa" else PROMPT).format(
                context=CONTEXT + "".join(before) if before else "",
                question=record["question"],
                options="\n".join(options),
            )
            end = seconds(record["time_stamp"], where)
            question = Question(
                id=str(number),
                text=prompt,
                expected=known_letter(record["answer"], options, where),
                task=str(record["task_type"]),
                options=plain_options(options),
            )
            start = max(0.0, end - self.context) if self.context is not None else None
            yield Item(question, str(record["video_path"]), start=start, end=end)


def _in_order(file: Path) -> Iterable[tuple[Record, Sequence[str]]]:
    """Each question with the path of its video, and the preceding dialogue of its sequence."""
    for number, entry in enumerate(need_list(read_json(file), "the annotation", str(file))):
        where = f"{file}, item {number}"
        said: list[str] = []
        for subset in entry if isinstance(entry, list) else [entry]:
            need(subset, ("video_path", "questions"), where)
            for asked in need_list(subset["questions"], "questions", where):
                need(asked, ("task_type", "question", "time_stamp", "answer", "options"), where)
                yield {**asked, "video_path": subset["video_path"]}, tuple(said)
                said.append(_turn(asked, where))


def _turn(asked: Record, where: str) -> str:
    return TURN.format(
        stamp=asked["time_stamp"],
        question=asked["question"],
        options=", ".join(_options(asked, where)),
        answer=asked["answer"],
    )


def _options(record: Record, where: str) -> list[str]:
    """Add letters to options that have none."""
    options = [str(option) for option in need_list(record["options"], "options", where)]
    return options if options[0].startswith("A.") else listed(options).split("\n")
