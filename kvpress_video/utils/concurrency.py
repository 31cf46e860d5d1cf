"""Ctrl-C that waits until a piece of work is whole, and the locks of models."""

from __future__ import annotations

import functools
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary


@contextmanager
def defer_sigint() -> Iterator[None]:
    """Ctrl-C inside takes effect at the end. Outside the main thread, which alone hears of it, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[tuple[int, FrameType | None]] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if heard and callable(before):
        before(*heard[0])


_LOCKS: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()
_GUARD = threading.Lock()


def model_lock(model: Any) -> Any:
    """The reentrant lock of a model: whoever runs it with hooks on holds it."""
    with _GUARD:
        return _LOCKS.setdefault(model, threading.RLock())


def under_lock(lock: Any, call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a call that waits for a lock and holds it."""

    @functools.wraps(call)
    def locked(*args: Any, **kwargs: Any) -> Any:
        with lock:
            return call(*args, **kwargs)

    return locked
