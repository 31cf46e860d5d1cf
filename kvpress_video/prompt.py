"""Turn a video and questions into the inputs of `model.generate()`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .video import Video


def prompt_text(processor: Any, question: str) -> str:
    """The question about one video in the model's chat template, with one placeholder for the video."""
    content = [{"type": "video"}, {"type": "text", "text": question}]
    text: str = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    return text


def prepare(processor: Any, video: Video, questions: str | Sequence[str], **processing: Any) -> Any:
    """Inputs of `model.generate()`, a `BatchFeature`: one row per question about the same video, padded on the left.

    The frames go in as they are, and the processor is told when each was shown, so that time reaches the model:
    through `second_per_grid_ts` in Qwen2.5-VL, through written timestamps in Qwen3-VL.

    Args:
        processor: the model's processor.
        video: the frames.
        questions: one question, or several.
        **processing: more arguments of the processor, such as `max_pixels`.
    """
    asked = [questions] if isinstance(questions, str) else questions
    return encode(processor, video, [prompt_text(processor, question) for question in asked], **processing)


def encode(processor: Any, video: Video, prompts: Sequence[str], **processing: Any) -> Any:
    """As `prepare`, for prompts that are in the model's chat template already."""
    return processor(
        text=list(prompts),
        videos=[[video.frames]] * len(prompts),
        video_metadata=[video.metadata for _ in prompts],
        fps=video.fps,
        do_sample_frames=False,
        padding=True,
        padding_side="left",
        return_tensors="pt",
        **processing,
    )
