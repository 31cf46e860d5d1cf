"""Judges of open-ended answers: their entry points, and prompts for a language model as a judge."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

from kvpress_video.errors import BenchmarkError, unknown_name
from kvpress_video.utils.files import atomic_write

Judge = Callable[[str, str, str], float]
"""From the question, the right answer and the given one to how right it is, in [0, 1]."""

GROUP = "kvpress_video.judges"

SYSTEM = (
    "You are an intelligent chatbot designed for evaluating the correctness of generative outputs for question-answer "
    "pairs. Your task is to compare the predicted answer with the correct answer and determine if they match "
    "meaningfully. Here's how you can accomplish the task:------##INSTRUCTIONS: "
    "- Focus on the meaningful match between the predicted answer and the correct answer.\n"
    "- Consider synonyms or paraphrases as valid matches.\n"
    "- Evaluate the correctness of the prediction compared to the answer."
)
USER = (
    "Please evaluate the following video-based question-answer pair:\n\n"
    "Question: {question}\n"
    "Correct Answer: {expected}\n"
    "Predicted Answer: {answer}\n\n"
    "Provide your evaluation only as a yes/no and score where the score is an integer value between 0 and 5, with 5 "
    "indicating the highest meaningful match. Please generate the response in the form of a Python dictionary string "
    "with keys 'pred' and 'score', where value of 'pred' is  a string of 'yes' or 'no' and value of 'score' is in "
    "INTEGER, not STRING.DO NOT PROVIDE ANY OTHER OUTPUT TEXT OR EXPLANATION. Only provide the Python dictionary "
    "string. For example, your response should look like this: {{'pred': 'yes', 'score': 4.8}}."
)


@cache
def load_judge(name: str) -> Judge:
    """Load a judge by its name in the entry-point group `kvpress_video.judges`, or by `"module:function"`.

    Raises:
        UnknownNameError: no installed package has a judge of that name.
        BenchmarkError: there is no such module or function.
    """
    if ":" not in name:
        points = {point.name: point for point in entry_points(group=GROUP)}
        if name not in points:
            raise unknown_name("judge", name, points)
        name = points[name].value
    module, _, function = name.partition(":")
    try:
        judge = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise BenchmarkError(f"There is no judge {name!r}: {error}") from error
    if not callable(judge):
        raise BenchmarkError(f"The judge {name!r} cannot be called.")
    return judge


def judged(name: str, question: str, expected: str, answer: str) -> float:
    """Judge an answer.

    Raises:
        BenchmarkError: the judge returns anything but a number in [0, 1].
    """
    score = load_judge(name)(question, expected, answer)
    if isinstance(score, str) or not 0 <= float(score) <= 1:
        raise BenchmarkError(f"The judge {name!r} says {score!r}, not a number from 0 to 1.")
    return float(score)


def judge_messages(question: str, expected: str, answer: str) -> list[dict[str, str]]:
    """Chat messages that ask a language model to judge an answer, as VStream-QA's authors word them."""
    user = USER.format(question=question, expected=expected, answer=answer)
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}]


def read_verdict(reply: str) -> float:
    """Parse such a judge's reply: 1 for yes, 0 for no; its score from 0 to 5 does not count towards accuracy.

    Raises:
        BenchmarkError: the reply does not have the requested form.
    """
    try:
        said = str(ast.literal_eval(reply.strip())["pred"]).lower()
    except (ValueError, SyntaxError, TypeError, KeyError) as error:
        raise BenchmarkError(f"The judge's reply {reply!r} is not a dictionary with pred and score.") from error
    if said not in ("yes", "no"):
        raise BenchmarkError(f"The judge's reply {reply!r} says neither yes nor no.")
    return float(said == "yes")


def write_for_judge(file: Path, answers: Iterable[tuple[str, str, str, str]]) -> None:
    """Write JSON lines of `id` and `messages` for a language model to judge.

    Args:
        file: written atomically.
        answers: id, question, right answer and given answer of each.
    """
    with atomic_write(file) as scratch, scratch.open("w", encoding="utf-8") as out:
        for name, question, expected, answer in answers:
            out.write(json.dumps({"id": name, "messages": judge_messages(question, expected, answer)}) + "\n")
