"""Stream an answer piece by piece while another thread generates it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer


class _Cancelled(Exception):
    """The iterator was closed before the answer was complete."""


class _CancelWhen(StoppingCriteria):
    def __init__(self, cancelled: threading.Event) -> None:
        self._cancelled = cancelled

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        if self._cancelled.is_set():
            raise _Cancelled
        return input_ids.new_zeros(len(input_ids), dtype=torch.bool)


def stream_answer(
    ask: Callable[..., Any], take_back: Callable[[Any], None], tokenizer: Any, question: str, **options: Any
) -> Iterator[str]:
    """Ask in another thread and yield the answer's text as it is generated.

    Closing the iterator early cancels the answer. If it was complete by then, it is taken back.

    Args:
        ask: called with the question, `streamer`, `stopping_criteria` and `options`, in the other thread; returns an
            identifier of the turn.
        take_back: forgets that turn if it is complete although the iterator was closed early.
        tokenizer: decodes the tokens.
        question: plain text.
        **options: further arguments of `ask`; `keep` determines whether there is a turn to take back.
    """
    pieces = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    cancelled, errors, turns = threading.Event(), [], []
    criteria = StoppingCriteriaList([_CancelWhen(cancelled), *options.pop("stopping_criteria", [])])

    def run() -> None:
        try:
            turns.append(ask(question, streamer=pieces, stopping_criteria=criteria, **options))
        except _Cancelled:
            pass
        except BaseException as error:
            errors.append(error)
        finally:
            pieces.end()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    complete = False
    try:
        yield from pieces
        complete = True
    finally:
        cancelled.set()
        thread.join()
        if turns and not complete and options.get("keep", True):
            take_back(turns[0])
    if errors:
        raise errors[0]
