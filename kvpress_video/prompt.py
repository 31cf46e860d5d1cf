"""Turn a video and questions into the inputs of `model.generate()`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .video import Video


@dataclass(frozen=True)
class VideoFirst:
    """A prompt cut after its video, so that the video is in the cache before a question is asked.

    Attributes:
        video: inputs of `model.generate()` up to the last visual token, one row; a `BatchFeature`.
        questions: token ids of what follows, one list per question.
    """

    video: Any
    questions: list[list[int]]


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
    return _process(processor, video, [prompt_text(processor, question) for question in asked], processing)


def prepare_video_first(processor: Any, video: Video, questions: Sequence[str], **processing: Any) -> VideoFirst:
    """The same prompts, cut after the video; arguments as in `prepare`."""
    texts = [prompt_text(processor, question) for question in questions]
    cut = texts[0].rindex(processor.video_token) + len(processor.video_token)
    rest = [processor.tokenizer(text[cut:], add_special_tokens=False)["input_ids"] for text in texts]
    return VideoFirst(_process(processor, video, [texts[0][:cut]], processing), rest)


def _process(processor: Any, video: Video, texts: list[str], processing: dict[str, Any]) -> Any:
    return processor(
        text=texts,
        videos=[video.frames] * len(texts),
        video_metadata=[video.metadata for _ in texts],
        fps=video.fps,
        do_sample_frames=False,
        padding=True,
        padding_side="left",
        return_tensors="pt",
        **processing,
    )
