"""Public benchmarks: what the model reads, word for word as published."""

# ruff: noqa: E501

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from public_copies import (
    Copy,
    write_egoschema,
    write_longvideobench,
    write_lvbench,
    write_lvbench_rows,
    write_mlvu,
    write_video_mme,
    write_vnbench,
)
from public_streams import write_ovo_bench, write_rvs, write_streamingbench

from kvpress_video.errors import BenchmarkError

VIDEO_MME = """\
Select the best answer to the following multiple-choice question based on the video. Respond with only the letter (A, B, C, or D) of the correct option.
What is shown, 1.2?
A. Black.
B. Gray.
C. Green.
D. Brown.
The best answer is:"""

VIDEO_MME_SUBTITLES = """\
This video's subtitles are listed below:
Hi guys,
how are you?

Select the best answer to the following multiple-choice question based on the video and the subtitles. Respond with only the letter (A, B, C, or D) of the correct option.
What is shown, 1.2?
A. Black.
B. Gray.
C. Green.
D. Brown.
The best answer is:"""

MLVU = """\
Carefully watch this video and pay attention to every detail. Based on your observations, select the best option that accurately addresses the question.
Question: Which animal, 3?
Options:
(A) a dog
(B) a cat
(C) a cow
(D) a hen
Only give the best option.
Best option: ("""

LONGVIDEOBENCH = """\
Question: Who comes, 1?
A. a dog
B. a cat
C. a cow
D. a hen
E. a fox
Answer with the option's letter from the given choices directly."""

EGOSCHEMA = """\
What does C do, 2?
A. C meets a dog.
B. C meets a cat.
C. C meets a cow.
D. C meets a hen.
E. C meets a fox.
Answer with the option's letter from the given choices directly."""

LVBENCH = """\
What year appears?
(A) 1636
(B) 1366
(C) 1363
(D) 1633
Answer the question with the option letter"""

LVBENCH_ROWS = """\
What year?
(A) 1636
(B) 1366
Answer the question with the option letter"""

VNBENCH = """\
Which one?
A. a cat
B. a cow
C. a hen
D. a dog
Answer with the option's letter from the given choices directly."""

STREAMINGBENCH = """\
You are an advanced video question-answering AI assistant. You have been provided with some frames from the video and a multiple-choice question related to the video. Your task is to carefully analyze the video and provide the best answer to question, choosing from the four options provided. Respond with only the letter (A, B, C, or D) of the correct option.

Question: What is there at 00:03:10?

Options:
A. one
B. two
C. three
D. four

The best option is:"""

SEQUENTIAL = """\
You are an advanced video question-answering AI assistant. You have been provided with a video and a multiple-choice question related to the video. Your task is to carefully analyze the video and the provided context to answer the question, choosing from the four options provided. Respond with only the letter (A, B, C, or D) of the correct option.

Here are the contextual information related to the video. Please answer the questions based on the contextual information: At timestamp 00:00:36, the following question and answer occurred: Question: What is there at 00:00:36?; Options: A. one, B. two, C. three, D. four; Answer: A;\x20

Here is the question. Answer it and don't confuse it with the previous conversation.
Question: What is there at 00:03:02?

Options:
A. one
B. two
C. three
D. four

The best option is:"""

OVO_CHOICE = """\
Question: What did I chop?
Options:
A. a dog; B. a cat; C. a cow; D. a hen;

Respond only with the letter corresponding to your chosen option (e.g., A, B, C).\x20
Do not include any additional text or explanation in your response."""

OVO_COUNT = """\
You're watching a video in which people may perform a certain type of action repetively.\x20
The person performing this kind of action are referred to as 'they' in the following statement.
You're task is to count how many times have different people in the video perform this kind of action in total.
One complete motion counts as one.\x20
Now, answer the following question: How many times did they breaking something?
Provide your answer as a single number (e.g., 0, 1, 2, 3…) indicating the total count.
Do not include any additional text or explanation in your response."""

OVO_STEP = """\
You're watching a tutorial video which contain a sequential of steps.\x20
The following is one step from the whole procedures:\x20
pour the wax
Your task is to determine if the man or woman in the video is currently performing this step.
Answer only with “Yes” or “No”.
Do not include any additional text or explanation in your response."""

OVO_CLUE = """\
You're responsible of answering questions based on the video content.\x20
The following question are relevant to the latest frames, i.e. the end of the video.
What does she do to the car?
Decide whether existing visual content, especially latest frames, i.e. frames that near the end of the video, provide enough information for answering the question.
Answer only with “Yes” or “No”.
Do not include any additional text or explanation in your response."""


def prompts(copy: Copy, **options: object) -> dict[tuple[str, str], str]:
    clips = copy.open(**options).clips(0, copy.root)
    return {(clip.video, question.id): question.text for clip in clips for question in clip.questions}


@pytest.mark.parametrize(
    ("write", "key", "prompt"),
    [
        (write_video_mme, ("yt1", "001-2"), VIDEO_MME),
        (write_mlvu, ("1_plotQA/plotQA_1.mp4", "1_plotQA-3"), MLVU),
        (write_longvideobench, ("v1.mp4", "v1_0"), LONGVIDEOBENCH),
        (write_egoschema, ("u2", "u2"), EGOSCHEMA),
        (write_lvbench, ("Cm0", "1"), LVBENCH),
        (write_lvbench_rows, ("v0.mp4", "0"), LVBENCH_ROWS),
        (write_vnbench, ("/VNBench_new/5_ord_edit1.mp4", "1"), VNBENCH),
        (write_streamingbench, ("./videos/sample_1_real.mp4", "2"), STREAMINGBENCH),
        (write_ovo_bench, ("Ego4D/clips/0.mp4", "0"), OVO_CHOICE),
        (write_ovo_bench, ("perception_test/v.mp4", "6_1"), OVO_COUNT),
        (write_ovo_bench, ("COIN/c.mp4", "7_1"), OVO_STEP),
        (write_ovo_bench, ("MovieNet/m.mp4", "8_0"), OVO_CLUE),
        (write_rvs, ("9198", "0"), "What is chopped?"),
    ],
)
def test_the_prompt_is_the_published_one(
    write: Callable[[Path], Copy], key: tuple[str, str], prompt: str, tmp_path: Path
) -> None:
    assert prompts(write(tmp_path))[key] == prompt


def test_sequential_questions_tell_what_came_before(tmp_path: Path) -> None:
    first, second = prompts(write_streamingbench(tmp_path), part="sqa").values()
    assert second == SEQUENTIAL
    assert "At timestamp" not in first


SRT = """\
1
00:00:00,000 --> 00:00:02,000
<font color="white" size=".72c">Hi guys,</font>

2
00:00:02,000 --> 00:00:04,000
<font color="white" size=".72c">how are</font>
you?
"""


def test_video_mme_with_subtitles(tmp_path: Path) -> None:
    copy = write_video_mme(tmp_path)
    with pytest.raises(BenchmarkError, match=r"4 of 4 subtitles of Video-MME are missing: yt0, yt1"):
        prompts(copy, subtitles=True)
    (tmp_path / "subtitle").mkdir()
    (tmp_path / "subtitle/yt1.srt").write_text(SRT)
    with pytest.warns(UserWarning, match=r"3 of 4 subtitles of Video-MME are missing: yt0, yt2, yt3"):
        read = prompts(copy, subtitles=True)
    assert read["yt1", "001-2"] == VIDEO_MME_SUBTITLES
    assert read["yt2", "002-0"].startswith("This video's subtitles are listed below:\nNo subtitles available\n\nSelect")


def test_subtitles_that_are_none_are_named(tmp_path: Path) -> None:
    copy = write_video_mme(tmp_path)
    (tmp_path / "subtitle").mkdir()
    for number in range(4):
        (tmp_path / f"subtitle/yt{number}.srt").write_text("nothing")
    with pytest.raises(BenchmarkError, match=r"yt0\.srt holds no subtitles"):
        prompts(copy, subtitles=True)


def test_longvideobench_shows_the_subtitles_of_the_piece(tmp_path: Path) -> None:
    copy = write_longvideobench(tmp_path)
    read = prompts(copy, subtitles=True)
    assert read["v0.mp4", "v0_0"].startswith("hello\nbye\nQuestion: Who comes, 0?\n")
    assert read["v1.mp4", "v1_0"] == f"good day\n{LONGVIDEOBENCH}"
    (tmp_path / "subtitles/v1_en.json").unlink()
    with pytest.raises(BenchmarkError, match=r"1 of 3 subtitles of LongVideoBench are missing: v1_en\.json"):
        prompts(copy, subtitles=True)
    with pytest.warns(UserWarning, match=r"1 of 3 subtitles"):
        assert set(prompts(copy, subtitles=True, missing="skip")) == {("v0.mp4", "v0_0"), ("v2.mp4", "v2_0")}
