"""The words around frames, questions and answers, as a model's own chat template puts them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import UnsupportedModelError

_FIRST, _ANSWER, _SECOND = "first-question", "first-answer", "second-question"


@dataclass(frozen=True)
class ChatTemplate:
    """A conversation is an opening, then frames and questions in any order, each after the words that belong between.

    Attributes:
        open_video, open_text: the beginning, before frames and before a question without any.
        close_video: after frames, before a question.
        ask: after a question, before the answer.
        next_video, next_text: after an answer, before frames and before a question.
    """

    open_video: str
    open_text: str
    close_video: str
    ask: str
    next_video: str
    next_text: str

    @classmethod
    def of(cls, processor: Any, system: str | None = None) -> ChatTemplate:
        """Read the words off a processor's chat template.

        Args:
            processor: has `apply_chat_template` and `video_token`.
            system: a system message, instead of the template's own.

        Raises:
            UnsupportedModelError: the template does not write its parts one after another.
        """
        before = [] if system is None else [{"role": "system", "content": [_text(system)]}]

        def render(*turns: tuple[str, bool, str]) -> str:
            messages = [
                {"role": role, "content": [*([{"type": "video"}] if video else []), _text(text)]}
                for role, video, text in turns
            ]
            written: str = processor.apply_chat_template(
                [*before, *messages], add_generation_prompt=True, tokenize=False
            )
            return written

        first, answered = ("user", False, _FIRST), ("assistant", False, _ANSWER)
        video = processor.video_token
        open_video, close_video, ask = _between(render(("user", True, _FIRST)), video, _FIRST)
        open_text, _ = _between(render(first), _FIRST)
        _, next_video, _, _ = _between(render(first, answered, ("user", True, _SECOND)), _ANSWER, video, _SECOND)
        _, next_text, _ = _between(render(first, answered, ("user", False, _SECOND)), _ANSWER, _SECOND)
        return cls(open_video, open_text, close_video, ask, next_video, next_text)


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _between(written: str, *marks: str) -> list[str]:
    """What stands around marks that follow one another."""
    pieces = []
    for mark in marks:
        piece, found, written = written.partition(mark)
        if not found:
            raise UnsupportedModelError(
                f"The processor's chat template does not write {mark!r} where it was put: a stream needs a template "
                "that writes frames, question and answer one after another."
            )
        pieces.append(piece)
    return [*pieces, written]
