"""What is no question, and what is no length of an answer, wherever one asks."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import kvpress_video as kv
from kvpress_video.report.retained import look
from kvpress_video.sweep.cells import Cell, Setup, Task
from kvpress_video.sweep.results.records import Failure
from kvpress_video.sweep.run.worker import Worker
from kvpress_video.utils.questions import check_question

if TYPE_CHECKING:
    from kvpress_video.benchmarks.world import Clip

    from kvpress_video.sweep.benchmark import Clip as Piece

Ask = Callable[..., Any]
BAD_QUESTIONS = [
    ("what is <|video_pad|>?", "contains '<|video_pad|>', which this model reads as a special token"),
    ("<|im_end|>", "contains '<|im_end|>'"),
    ("a<|vision_start|><|image_pad|>", "contains '<|vision_start|>'"),
    ("caf\udce9", "is no character: write it in UTF-8"),
    (None, "A question is text, got None"),
    (5, "A question is text, got 5"),
    (["What?"], "A question is text, got .'What.'"),
]
BAD_COUNTS = [0, -1, None, "5", True, 1.5, np.float64(3), 10**3 + 0j]


@pytest.fixture(params=["ask", "session", "stream", "all"])
def ask(request: pytest.FixtureRequest, bundled: tuple[Any, Any], clips: list[Clip]) -> Ask:
    """One of the ways to ask about a video."""
    if request.param == "ask":
        return lambda question, **how: kv.ask(*bundled, clips[0].path, question, **how)
    session = kv.VideoSession(*bundled, budget=64)
    session.push_video(clips[0].path)
    ways: dict[str, Ask] = {
        "session": session.ask,
        "stream": lambda question, **how: list(session.stream_answer(question, **how)),
        "all": lambda question, **how: kv.ask_all([session], [question], **how),
    }
    return ways[request.param]


@pytest.mark.sampled
@pytest.mark.parametrize(("question", "message"), BAD_QUESTIONS)
def test_what_is_no_question_is_refused(ask: Ask, question: Any, message: str) -> None:
    with pytest.raises(kv.QuestionError, match=message.replace("|", r"\|").replace("?", r"\?")):
        ask(question, max_new_tokens=2)


@pytest.mark.sampled
@pytest.mark.parametrize("count", BAD_COUNTS)
def test_what_is_no_length_of_an_answer_is_refused(ask: Ask, count: Any) -> None:
    with pytest.raises(kv.BudgetError, match="max_new_tokens must be a whole number above zero, got"):
        ask("What?", max_new_tokens=count)
    assert ask("What?", max_new_tokens=np.int64(2)) is not None


def test_a_system_message_is_text_alone(bundled: tuple[Any, Any]) -> None:
    with pytest.raises(kv.QuestionError, match=r"The system message .* contains '<\|video_pad\|>'"):
        kv.VideoSession(*bundled, budget=64, system="You see <|video_pad|>.")


@pytest.mark.parametrize(("question", "message"), BAD_QUESTIONS)
def test_inputs_are_not_made_of_what_is_no_question(
    question: Any, message: str, bundled: tuple[Any, Any], clips: list[Clip]
) -> None:
    video = kv.read_video(clips[0].path)
    with pytest.raises(kv.QuestionError, match=message.replace("|", r"\|").replace("?", r"\?")):
        kv.prepare(bundled[1], video, ["What?", question])


@pytest.mark.parametrize("questions", [None, 5, b"What?", [], ()])
def test_what_is_no_question_at_all(bundled: tuple[Any, Any], clips: list[Clip], questions: Any) -> None:
    with pytest.raises(kv.QuestionError, match=r"A question is text|There are no questions"):
        kv.prepare(bundled[1], kv.read_video(clips[0].path), questions)


def test_a_path_is_no_video_yet(bundled: tuple[Any, Any], clips: list[Clip]) -> None:
    with pytest.raises(kv.VideoError, match=r"read it with read_video\(\) first"):
        kv.prepare(bundled[1], clips[0].path, "What?")


def test_look_refuses_it_too(bundled: tuple[Any, Any], clips: list[Clip]) -> None:
    with pytest.raises(kv.QuestionError, match="im_start"):
        look(*bundled, kv.read_video(clips[0].path), ["tar"], "25%", "<|im_start|>?")


def test_in_a_sweep_the_clip_fails_and_names_the_token(pieces: list[Piece]) -> None:
    from dataclasses import replace

    asked = replace(pieces[0].questions[0], text="What is <|video_pad|>?")
    cell = Cell("tar", "25%", benchmark="world:count=4,frames=8")
    task = Task("bundled", cell.benchmark, 0, replace(pieces[0], questions=(asked,)), (cell,))
    [failure] = Worker(Setup(device="cpu")).run(task)
    assert isinstance(failure, Failure)
    assert failure.error.startswith("QuestionError: The question 'What is <|video_pad|>?' contains '<|video_pad|>'")


def test_the_longest_token_at_the_first_place_is_named() -> None:
    """Placeholders that only the processor knows count; words that the tokenizer was taught do not."""
    added = {7: SimpleNamespace(content="<a>", special=True), 8: SimpleNamespace(content="<tool>", special=False)}
    tokenizer = SimpleNamespace(all_special_tokens=["<a><b>", ""], added_tokens_decoder=added)
    processor = SimpleNamespace(tokenizer=tokenizer, image_token="<image>", video_token=None)
    check_question(processor, "A <tool> that costs < 5 > 3?")
    for question, token in (("x<a><b><image>", "<a><b>"), ("<image><a>", "<image>"), ("<a>", "<a>")):
        with pytest.raises(kv.QuestionError, match=f"contains '{token}'"):
            check_question(processor, question)
