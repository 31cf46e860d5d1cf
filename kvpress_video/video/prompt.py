"""Prepare the inputs of `model.generate()` from a video and questions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..errors import QuestionError, UnsupportedModelError, VideoError
from ..utils.questions import check_question
from .reader import Video


def video_part(processor: Any) -> dict[str, str]:
    """Return the part of a chat message that stands for a video; an image if the processor takes no videos.

    Raises:
        UnsupportedModelError: the processor takes neither.
    """
    for kind in ("video", "image"):
        if getattr(processor, f"{kind}_processor", None) is not None:
            return {"type": kind}
    raise UnsupportedModelError(
        f"{type(processor).__name__} takes neither videos nor images: give the processor of a multimodal model, "
        "as AutoProcessor.from_pretrained() makes it."
    )


def prompt_text(processor: Any, question: str) -> str:
    """Write a question about one video in the model's chat template, with one placeholder for the video.

    Raises:
        QuestionError: the question is not text, or contains a special token of the model.
        UnsupportedModelError: the processor takes neither videos nor images.
    """
    video = video_part(processor)
    check_question(processor, question)
    content = [video, {"type": "text", "text": question}]
    text: str = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    return text


def prepare(processor: Any, video: Video, questions: str | Sequence[str], **processing: Any) -> Any:
    """Prepare inputs of `model.generate()`: one row per question about the same video, padded on the left.

    All frames are passed on with their times, which reach the model through `second_per_grid_ts` in Qwen2.5-VL and
    through written timestamps in Qwen3-VL. A processor that takes only images, as Gemma 3's does, gets each frame as an
    image, without its time.

    Args:
        processor: the model's processor.
        video: the frames.
        questions: one question, or several.
        **processing: further arguments of the processor, such as `max_pixels`.

    Raises:
        QuestionError: a question is not a string or contains a special token of the model, or there is none.
        VideoError: the video has not been read yet.
        UnsupportedModelError: the processor takes neither videos nor images.
    """
    if not isinstance(video, Video):
        cure = "give one" if isinstance(video, (list, tuple)) else "read it with read_video() first"
        raise VideoError(f"Expected a Video, got a {type(video).__name__}: {cure}.")
    several = isinstance(questions, Iterable) and not isinstance(questions, (str, bytes))
    asked: list[Any] = list(questions) if several else [questions]
    if not asked:
        raise QuestionError("There are no questions: give one, or several.")
    return encode(processor, video, [prompt_text(processor, question) for question in asked], **processing)


def encode(processor: Any, video: Video, prompts: Sequence[str], **processing: Any) -> Any:
    """Prepare inputs from prompts already in the model's chat template, with one placeholder each."""
    images = video_part(processor)["type"] == "image"
    given = _as_images(processor, video, prompts) if images else _as_video(video, prompts)
    return processor(**given, padding=True, padding_side="left", return_tensors="pt", **processing)


def _as_video(video: Video, prompts: Sequence[str]) -> dict[str, Any]:
    return {
        "text": list(prompts),
        "videos": [[video.frames]] * len(prompts),
        "video_metadata": [video.metadata for _ in prompts],
        "fps": video.fps,
        "do_sample_frames": False,
    }


def _as_images(processor: Any, video: Video, prompts: Sequence[str]) -> dict[str, Any]:
    """Repeat the placeholder of an image for each frame; omit the initial token if the template contains it."""
    image, begin = processor.image_token, processor.tokenizer.bos_token
    return {
        "text": [prompt.replace(image, image * len(video), 1) for prompt in prompts],
        "images": [list(video.frames)] * len(prompts),
        "add_special_tokens": begin is None or not prompts[0].startswith(begin),
    }
