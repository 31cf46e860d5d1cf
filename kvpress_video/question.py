"""Answer one question about a video, with the cache compressed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from .budget import UNCOMPRESSED, UNCOMPRESSED_BUDGET, BudgetLike
from .cache.quantization import QuantizeLike
from .compression import Report, compress
from .compressor.base import Compressor
from .errors import BudgetError
from .models.devices import device_of
from .prefill.options import Labels, Positions, Stage
from .utils.questions import check_new_tokens, check_question
from .video.prompt import prepare
from .video.reader import Video, VideoSource
from .video.resolution import frame_pixels
from .video.selection import USUAL_FPS, select


@dataclass(frozen=True)
class Answer:
    """An answer and its cost.

    Attributes:
        text: the answer.
        report: the report of the compression.
        seconds: seconds from the video's pixels to the complete answer.
    """

    text: str
    report: Report
    seconds: float


def ask(
    model: Any,
    processor: Any,
    video: Video | VideoSource,
    question: str,
    *,
    method: str | Compressor = UNCOMPRESSED,
    budget: BudgetLike | None = None,
    stage: Stage = "cache",
    positions: Positions = "keep",
    labels: Labels = "spread",
    quantize: QuantizeLike = None,
    max_new_tokens: int = 64,
    **settings: Any,
) -> Answer:
    """Answer a question about a video by greedy decoding.

    The question is read after the compression, so the answer depends only on the compressed cache.

    Args:
        model, processor: result of `load` or `load_bundled`.
        video: from `read_video`; or a path or file as it accepts them, sampled at 2 frames per second (or all frames if
            there are fewer), no larger than the processor can use.
        question: text of the question.
        method, budget, stage, positions, labels, quantize, **settings: as in `compress`; `"full"` needs no budget.
        max_new_tokens: maximum length of the answer.

    Raises:
        QuestionError: the question is not a string, or contains a special token of the model.
        VideoError: the video cannot be read.
        BudgetError: the method needs a budget, or cannot reach it; or `max_new_tokens` is not a positive integer.
        UnknownNameError: unknown method, setting, stage, positions or labels.
        UnsupportedModelError: the model cannot be compressed.
        CacheError: `quantize` cannot be parsed or conflicts with `positions`.
    """
    check_new_tokens(max_new_tokens)
    check_question(processor, question)
    if budget is None:
        if method != UNCOMPRESSED:
            raise BudgetError(f"{method!r} needs a budget, such as '25%', 6144 or '256MiB'.")
        budget = UNCOMPRESSED_BUDGET
    if not isinstance(video, Video):
        video = select(video, default_fps=USUAL_FPS).read(max_pixels=frame_pixels(processor))
    inputs = prepare(processor, video, question).to(device_of(model))
    started = time.perf_counter()
    how: dict[str, Any] = {"stage": stage, "positions": positions, "labels": labels, "quantize": quantize}
    with compress(model, method, budget, **how, **settings) as run:
        output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    reply = output[0, inputs["input_ids"].shape[1] :].tolist()
    seconds = time.perf_counter() - started
    return Answer(processor.tokenizer.decode(reply, skip_special_tokens=True).strip(), run.report, seconds)
