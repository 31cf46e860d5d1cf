"""Completions in the worker's queue: prompts are prefilled one at a time, and answers decoded in batches in between."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from .completions import Asked, Completed, Completions
from .decoding import Decoding, Row
from .replies import Cancelled
from .worker import Worker

_STEPS = 4
"""Decoding steps of a batch between turns of other work that waits for the model."""


@dataclass(eq=False)
class _Begun:
    """A request whose answer has begun."""

    asked: Asked
    done: Completed
    row: Row
    future: Future[Completed]


@dataclass(eq=False)
class _Batch:
    """Answers of one kind: those being decoded, and those waiting to join."""

    decoding: Decoding
    running: list[_Begun] = field(default_factory=list)
    waiting: deque[_Begun] = field(default_factory=deque)


class CompletionQueue:
    """Answers requests through the worker; all methods but `submit` run in its thread."""

    def __init__(self, completions: Completions, worker: Worker, together: int) -> None:
        """Create an empty queue.

        Args:
            completions: answers requests.
            worker: runs the model.
            together: maximum number of answers per batch.
        """
        self._completions, self._worker, self._together = completions, worker, together
        self._batches: dict[Hashable, _Batch] = {}

    def submit(self, asked: Asked) -> Future[Completed]:
        """Queue a request."""
        future: Future[Completed] = Future()

        def begin() -> None:
            if future.set_running_or_notify_cancel():
                with _failing(future):
                    self._begin(asked, future)

        self._worker.submit(self, begin)
        return future

    def _begin(self, asked: Asked, future: Future[Completed]) -> None:
        if self._together < 2 or not self._completions.joinable:
            self._answer(asked, future)
            return
        begun = _Begun(asked, *self._completions.begin(asked), future)
        if asked.reply.done:
            _finish(begun)
            return
        if (batch := self._batches.get(asked.kind)) is not None:
            batch.waiting.append(begun)
            return
        self._batches[asked.kind] = _Batch(self._completions.batch(), waiting=deque([begun]))
        self._advance(asked.kind)  # before the next prompt, which takes longer than a few steps

    def _answer(self, asked: Asked, future: Future[Completed]) -> None:
        """Answer a request alone."""
        with _failing(future):
            future.set_result(self._completions.answer(asked))

    def _go_on(self, kind: Hashable) -> None:
        self._worker.submit((self, kind), lambda: self._advance(kind))

    def _advance(self, kind: Hashable) -> None:
        """Decode a few steps, then requeue behind other work that waits for the model."""
        batch = self._batches[kind]
        room = self._together - len(batch.running)
        arriving = [batch.waiting.popleft() for _ in range(min(room, len(batch.waiting)))]
        batch.running += arriving
        try:
            self._completions.advance(batch.decoding, [each.row for each in arriving], self._pauses())
        except Exception:
            alone, batch.running = batch.running, []
            for begun in alone:  # from the start: each fails for its own reasons only
                self._answer(begun.asked, begun.future)
        for begun in [each for each in batch.running if each.asked.reply.done]:
            batch.running.remove(begun)
            _finish(begun)
        left = [*batch.running, *batch.waiting]
        try:
            if left:
                self._go_on(kind)
                return
        except RuntimeError as error:  # the server ends
            for begun in left:
                begun.future.set_exception(error)
        del self._batches[kind]

    def _pauses(self) -> Callable[[], bool]:
        """Return a function that is called after each step and returns whether to pause for other work."""
        steps = count(1)
        return lambda: next(steps) >= _STEPS and self._worker.waiting > 0


def _finish(begun: _Begun) -> None:
    if begun.asked.reply.cancelled:
        begun.future.set_exception(Cancelled())
    else:
        begun.future.set_result(begun.done)


@contextmanager
def _failing(future: Future[Any]) -> Iterator[None]:
    """Set exceptions raised inside on a future."""
    try:
        yield
    except BaseException as error:
        future.set_exception(error)
