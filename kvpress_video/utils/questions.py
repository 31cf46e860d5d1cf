"""Checks of a question and of the length of its answer, before anything runs."""

from __future__ import annotations

from typing import Any

from ..errors import BudgetError, QuestionError
from .numbers import is_whole

_PLACEHOLDERS = ("image_token", "video_token", "audio_token")


def check_question(processor: Any, text: Any, what: str = "question") -> None:
    """Check that a model reads a text as plain text.

    Args:
        processor: processor of the model.
        text: text to check.
        what: noun for the text, for messages.

    Raises:
        QuestionError: it is not text, cannot be encoded as UTF-8, or contains a special token of the model, such as the
            placeholder of a video.
    """
    if not isinstance(text, str):
        raise QuestionError(f"A {what} is text, got {text!r:.80}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        broken = text[error.start : error.end]
        raise QuestionError(
            f"The {what} {text!r:.80} holds {broken!r:.20}, which is no character: write it in UTF-8."
        ) from error
    found = [token for token in special_tokens(processor) if token in text]
    if found:
        first = min(found, key=lambda token: (text.index(token), -len(token)))
        raise QuestionError(
            f"The {what} {text!r:.80} contains {first!r}, which this model reads as a special token and not as text: "
            "leave it out, or write it another way, such as with spaces inside."
        )


def special_tokens(processor: Any) -> set[str]:
    """Collect the texts that a model reads as special tokens or replaces by frames."""
    tokenizer = processor.tokenizer
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    names = (name for name in {*vars(processor), *_PLACEHOLDERS} if name.endswith("_token"))
    texts = (
        *getattr(tokenizer, "all_special_tokens", ()),
        *(token.content for token in added if token.special),
        *(getattr(processor, name, None) for name in names),
    )
    return {text for text in texts if isinstance(text, str) and text}


def check_new_tokens(count: Any) -> None:
    """Check the maximum length of an answer.

    Raises:
        BudgetError: it is not a whole number above zero.
    """
    if not is_whole(count) or count < 1:
        raise BudgetError(f"max_new_tokens must be a whole number above zero, got {count!r:.80}.")
