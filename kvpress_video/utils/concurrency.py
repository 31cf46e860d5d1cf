"""Deferred Ctrl-C, and one lock per model."""

from __future__ import annotations

import functools
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary


@contextmanager
def defer_sigint() -> Iterator[None]:
    """Defer a Ctrl-C inside the block until the block ends; only in the main thread, which receives signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[tuple[int, FrameType | None]] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: received.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if received and callable(before):
        before(*received[0])


@contextmanager
def entered(contexts: Iterable[AbstractContextManager[Any]]) -> Iterator[None]:
    """Enter and leave contexts, each without being interrupted halfway by Ctrl-C."""
    with ExitStack() as undo:
        with defer_sigint():
            for context in contexts:
                undo.enter_context(context)
        try:
            yield
        finally:
            with defer_sigint():
                undo.close()


_LOCKS: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()
_GUARD = threading.Lock()


def model_lock(model: Any) -> Any:
    """Return the model's reentrant lock, held while the model runs with hooks."""
    with _GUARD:
        return _LOCKS.setdefault(model, threading.RLock())


def under_lock(lock: Any, call: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that it holds a lock."""

    @functools.wraps(call)
    def locked(*args: Any, **kwargs: Any) -> Any:
        with lock:
            return call(*args, **kwargs)

    return locked
