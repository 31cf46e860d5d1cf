"""Questions of one's own, from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kvpress_video.benchmarks.public.questions import Questions

from kvpress_video.errors import BenchmarkError

LINES: list[dict[str, Any]] = [
    {"video": "a.mp4", "question": "What colour is the car?", "answer": "red"},
    {"video": "a.mp4", "question": "Who drives?", "answer": "a dog", "options": ["a cat", "a dog"], "task": "who"},
    {"video": "a.mp4", "question": "What colour?", "answer": "blue", "start": 2, "end": 5.5, "id": "later"},
]


def copy(folder: Path, lines: list[dict[str, Any]]) -> Path:
    (folder / "a.mp4").touch()
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def test_questions_are_read_and_scored(tmp_path: Path) -> None:
    mine = Questions(path=str(copy(tmp_path, LINES)), frames=8)
    whole, part = mine.clips(0, tmp_path)
    free, choice = whole.questions
    assert (free.task, choice.task, choice.expected) == ("all", "who", "B")
    assert choice.text == "Who drives?\nA. a cat\nB. a dog\nAnswer with the letter of the right option."
    assert (part.start, part.end, part.questions[0].id, part.video) == (2.0, 5.5, "later", whole.video)
    assert [mine.score(free, answer) for answer in ("Red.", "a red car")] == [1.0, 0.0]
    assert [mine.score(choice, answer) for answer in ("B", "A. a cat")] == [1.0, 0.0]


@pytest.mark.parametrize(("change", "message"), [
    ({"answer": None, "option": ["x"]}, "item 0: unknown 'option'. Known: video, question"),
    ({"options": ["x", "y"]}, "item 0: the answer 'red' is none of 'x', 'y'"),
    ({"start": "2"}, "item 0: start should be a number, found '2'"),
])  # fmt: skip
def test_a_mistake_is_named_with_its_place(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        Questions(path=str(copy(tmp_path, [{**LINES[0], **change}]))).clips(0, tmp_path)
