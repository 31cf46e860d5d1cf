"""Chat-template markup around frames, questions and answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import UnsupportedModelError
from ..models.base import Adapter

_FIRST, _ANSWER, _SECOND = "first-question", "first-answer", "second-question"


@dataclass(frozen=True)
class ChatTemplate:
    """Markup of a conversation, in pieces that can be joined in any order of frames and questions.

    Attributes:
        open_video, open_text: start of the conversation, before frames, or before a question without frames.
        close_video: markup between frames and a question.
        ask: markup between a question and its answer.
        next_video, next_text: markup between an answer and frames, or the next question without frames.
    """

    open_video: str
    open_text: str
    close_video: str
    ask: str
    next_video: str
    next_text: str

    @classmethod
    def of(cls, processor: Any, system: str | None, adapter: Adapter) -> ChatTemplate:
        """Extract the markup from a processor's chat template by rendering short conversations.

        Args:
            processor: a processor with `apply_chat_template`.
            system: system message that replaces the template's own.
            adapter: adapter of the model, which knows the text around the frames of a video.

        Raises:
            UnsupportedModelError: the template does not write the parts in order.
        """
        around, written = adapter.video_markup(processor), adapter.video_text(processor)
        before = [] if system is None else [{"role": "system", "content": [_text(system)]}]

        def render(*turns: tuple[str, bool, str]) -> str:
            messages = [
                {"role": role, "content": [*([{"type": adapter.media}] if video else []), _text(text)]}
                for role, video, text in turns
            ]
            rendered: str = processor.apply_chat_template(
                [*before, *messages], add_generation_prompt=True, tokenize=False
            )
            return rendered

        first, answered = ("user", False, _FIRST), ("assistant", False, _ANSWER)
        video = adapter.placeholder(processor)
        open_video, close_video, ask = _split(render(("user", True, _FIRST)), video, _FIRST)
        if not (open_video.endswith(around.opens) and close_video.startswith(around.closes)):
            raise UnsupportedModelError(
                f"The processor's chat template does not write {around.opens!r} and {around.closes!r} around a "
                "video: a stream cannot find the text that its frames replace."
            )
        open_text, _ = _split(render(first), _FIRST)
        _, next_video, _, _ = _split(render(first, answered, ("user", True, _SECOND)), _ANSWER, video, _SECOND)
        _, next_text, _ = _split(render(first, answered, ("user", False, _SECOND)), _ANSWER, _SECOND)
        next_video = next_video.removesuffix(around.opens)
        open_video, close_video = open_video.removesuffix(around.opens), close_video.removeprefix(around.closes)
        return cls(
            open_video + written.opens,
            open_text,
            written.closes + close_video,
            ask,
            next_video + written.opens,
            next_text,
        )


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _split(rendered: str, *marks: str) -> list[str]:
    """Split text at consecutive marks."""
    pieces = []
    for mark in marks:
        piece, found, rendered = rendered.partition(mark)
        if not found:
            raise UnsupportedModelError(
                f"The processor's chat template does not write {mark!r} where it was put: a stream needs a template "
                "that writes frames, question and answer one after another."
            )
        pieces.append(piece)
    return [*pieces, rendered]
