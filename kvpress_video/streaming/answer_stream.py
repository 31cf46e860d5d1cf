"""An answer that comes piece by piece, while it is made in another thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

if TYPE_CHECKING:
    from .session import VideoSession


class _Unwanted(Exception):
    """Nobody listens any more."""


class _StopWhen(StoppingCriteria):
    def __init__(self, unwanted: threading.Event) -> None:
        self._unwanted = unwanted

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        if self._unwanted.is_set():
            raise _Unwanted
        return input_ids.new_zeros(len(input_ids), dtype=bool)


def stream_answer(session: VideoSession, tokenizer: Any, question: str, **options: Any) -> Iterator[str]:
    """Ask, and yield the answer's text as it comes.

    Args:
        session: is asked in another thread.
        tokenizer: turns tokens into text.
        question: in plain words.
        **options: of `VideoSession.ask`.
    """
    pieces = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    unwanted, failed, answered = threading.Event(), [], []
    stop = StoppingCriteriaList([_StopWhen(unwanted), *options.pop("stopping_criteria", [])])

    def run() -> None:
        try:
            answered.append(session.ask(question, streamer=pieces, stopping_criteria=stop, **options))
        except _Unwanted:
            pass
        except BaseException as error:
            failed.append(error)
        finally:
            pieces.end()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    heard = False
    try:
        yield from pieces
        heard = True
    finally:
        unwanted.set()
        thread.join()
        if not heard and not failed and options.get("keep", True) and answered:
            session.take_back()
    if failed:
        raise failed[0]
