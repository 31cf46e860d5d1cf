"""Ask a model about a video whose cache is compressed before the question is known."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch

from .budget import BudgetLike
from .compression import Positions, Report, Stage, compress
from .compressor import Compressor
from .errors import BudgetError
from .prompt import VideoFirst, prepare_video_first
from .video import Video


@dataclass(frozen=True)
class Answer:
    """What a model said, and what that cost.

    Attributes:
        text: the answer.
        report: what was asked of the cache, and what it held when the question came.
        seconds: from the video's pixels to the answer.
    """

    text: str
    report: Report
    seconds: float


def ask(
    model: Any,
    processor: Any,
    video: Video,
    question: str,
    *,
    method: str | Compressor = "full",
    budget: BudgetLike | None = None,
    stage: Stage = "cache",
    positions: Positions = "keep",
    max_new_tokens: int = 64,
    **settings: Any,
) -> Answer:
    """Answer a question about a video, greedily.

    The video is prefilled and compressed first, then the question is asked: everything the answer says of the video
    comes out of the compressed cache.

    Args:
        model, processor: from `load` or `load_bundled`.
        video: from `read_video`.
        question: in plain words.
        method, budget, stage, positions, **settings: as in `compress`; `"full"` needs no budget.
        max_new_tokens: the longest answer.

    Raises:
        BudgetError: the method needs a budget, or cannot reach it.
        UnknownNameError: unknown method, setting, stage or positions.
        UnsupportedModelError: the model cannot be compressed.
    """
    if budget is None:
        if method != "full":
            raise BudgetError(f"{method!r} needs a budget, such as '25%', 6144 or '256MiB'.")
        budget = "100%"
    prompt = prepare_video_first(processor, video, [question])
    prompt.video.to(model.device)
    started = time.perf_counter()
    with compress(model, method, budget, stage=stage, positions=positions, **settings) as run:
        [reply] = answer_all(model, prompt, max_new_tokens)
    seconds = time.perf_counter() - started
    return Answer(processor.tokenizer.decode(reply, skip_special_tokens=True).strip(), run.report, seconds)


def answer_all(model: Any, prompt: VideoFirst, max_new_tokens: int) -> list[list[int]]:
    """Token ids of the answers to all questions about a video, which is prefilled once; greedy.

    Questions of the same length go through the model together, so that nothing is padded.

    Args:
        model: inside `compress()`, unless the cache shall stay whole.
        prompt: on the model's device.
        max_new_tokens: the longest answer.
    """
    how: dict[str, Any] = {"do_sample": False, "return_dict_in_generate": True}
    cache = model.generate(**prompt.video, **how, max_new_tokens=1).past_key_values
    shown = prompt.video["input_ids"]
    first_row = torch.zeros(1, dtype=torch.long, device=shown.device)
    same_length: dict[int, list[int]] = defaultdict(list)
    for number, question in enumerate(prompt.questions):
        same_length[len(question)].append(number)
    answers: dict[int, list[int]] = {}
    for numbers in same_length.values():
        cache.batch_repeat_interleave(len(numbers))
        asked = shown.new_tensor([prompt.questions[number] for number in numbers])
        ids = torch.cat([shown.expand(len(numbers), -1), asked], dim=1)
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=cache,
            max_new_tokens=max_new_tokens,
            **how,
        )
        answers |= zip(numbers, output.sequences[:, ids.shape[1] :].tolist(), strict=True)
        cache.crop(shown.shape[1] - cache.get_seq_length())
        cache.batch_select_indices(first_row)
    return [answers[number] for number in range(len(prompt.questions))]
