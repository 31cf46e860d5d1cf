"""What is put to a language model that judges open-ended answers, and how its reply is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kvpress_video.benchmarks.public.judges import judge_messages, read_verdict, write_for_judge

from kvpress_video.errors import BenchmarkError


def test_the_judge_is_asked_in_the_published_words() -> None:
    system, user = judge_messages("What is cut?", "An {onion}.", "Onions")
    assert system["role"] == "system"
    assert system["content"].endswith("- Evaluate the correctness of the prediction compared to the answer.")
    assert user["content"].startswith(
        "Please evaluate the following video-based question-answer pair:\n\n"
        "Question: What is cut?\nCorrect Answer: An {onion}.\nPredicted Answer: Onions\n\n"
    )
    assert user["content"].endswith("your response should look like this: {'pred': 'yes', 'score': 4.8}.")


def test_a_verdict_is_its_yes_or_no() -> None:
    assert read_verdict("{'pred': 'yes', 'score': 3}") == 1
    assert read_verdict(" {'pred': 'No', 'score': 4} ") == 0
    for reply in ("yes", "{'score': 4}", "{'pred': 'maybe', 'score': 1}"):
        with pytest.raises(BenchmarkError, match="reply"):
            read_verdict(reply)


def test_answers_are_written_for_a_judge(tmp_path: Path) -> None:
    file = tmp_path / "judge.jsonl"
    write_for_judge(file, [("a", "Q?", "yes", "ja"), ("b", "R?", "no", "nein")])
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["id"] for line in lines] == ["a", "b"]
    assert lines[1]["messages"] == judge_messages("R?", "no", "nein")
