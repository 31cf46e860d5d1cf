"""Model inputs of a conversation with videos and pictures, in the model's chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import UnsupportedModelError
from ...utils.questions import check_question
from ...video.prompt import video_part
from ...video.video import Video
from .media import Picture
from .openai_schema import ChatRequest, ImagePart, TextPart, parts

Shown = Video | Picture


def template_turns(processor: Any, request: ChatRequest) -> list[dict[str, Any]]:
    """Convert messages to the format of chat templates, with a placeholder for each video and picture.

    Raises:
        QuestionError: a text contains a special token of the model.
        UnsupportedModelError: the processor does not support pictures.
    """
    turns = []
    for message in request.messages:
        content = []
        for part in parts(message):
            if isinstance(part, TextPart):
                check_question(processor, part.text, "message")
                content.append({"type": "text", "text": part.text})
            elif not isinstance(part, ImagePart):
                content.append(video_part(processor))
            elif getattr(processor, "image_processor", None) is not None:
                content.append({"type": "image"})
            else:
                raise UnsupportedModelError(f"{type(processor).__name__} takes no pictures.")
        role = "system" if message.role == "developer" else message.role
        turns.append({"role": role, "content": content})
    return turns


def prompt_text(processor: Any, turns: Sequence[dict[str, Any]]) -> str:
    """Render turns in the model's chat template, up to the beginning of the answer."""
    text: str = processor.apply_chat_template(list(turns), add_generation_prompt=True, tokenize=False)
    return text


def model_inputs(processor: Any, text: str, shown: Sequence[Shown]) -> Any:
    """Create the inputs of `generate()` for one prompt.

    Args:
        processor: processor of the model.
        text: result of `prompt_text`.
        shown: videos and pictures, in the order of their placeholders, as arrays.
    """
    videos = [each for each in shown if isinstance(each, Video)]
    pictures = [each for each in shown if not isinstance(each, Video)]
    given: dict[str, Any] = {}
    if videos and video_part(processor)["type"] == "image":  # each frame becomes a picture
        text = _repeated(text, processor.image_token, [len(each) if isinstance(each, Video) else 1 for each in shown])
        groups = (each.frames if isinstance(each, Video) else [each] for each in shown)
        pictures, videos = [picture for group in groups for picture in group], []
    if videos:
        rates = {video.fps for video in videos}
        given |= {
            "videos": [[video.frames for video in videos]],
            "video_metadata": [video.metadata for video in videos],
            "do_sample_frames": False,
            **({"fps": rates.pop()} if len(rates) == 1 else {}),
        }
    if pictures:
        given["images"] = [pictures]
    begin = getattr(processor.tokenizer, "bos_token", None)
    if begin and text.startswith(begin):
        given["add_special_tokens"] = False
    return processor(text=[text], return_tensors="pt", **given)


def _repeated(text: str, placeholder: str, counts: Sequence[int]) -> str:
    """Repeat each placeholder in a text."""
    before, *after = text.split(placeholder)
    return before + "".join(placeholder * count + rest for count, rest in zip(counts, after, strict=True))
