"""Serialised calls of one model from several threads; the end waits for calls in progress."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

from ..errors import CacheError

_GRACE = 1.0  # seconds that a thread has to make its first call
_POLL = 0.01


class Turns:
    """Serialises the calls of some methods of a model while they are replaced.

    Stock models and hooks keep state of the current call, so concurrent calls would interfere.
    """

    def __init__(self, lock: Any, finished: Callable[[str], None] | None = None) -> None:
        """Prepare turns for one model.

        Args:
            lock: lock of the model, held during each call.
            finished: called with the name of a method after each outermost call, before the next turn.
        """
        self._lock = lock
        self._finished = finished
        self._known = WeakSet(threading.enumerate())
        self._owner: int | None = None
        self._begun = 0  # calls in progress or waiting
        self._ending = self._ended = False
        self._changed = threading.Condition()

    def serialised(self, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Return the wrapper of a method for `replaced`; nested calls belong to the outermost one's turn."""

        def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
            def in_turn(*args: Any, **kwargs: Any) -> Any:
                if self._owner == threading.get_ident() or not self._begin():
                    return call(*args, **kwargs)
                try:
                    with self._lock:
                        return self._owned(name, call, args, kwargs)
                finally:
                    with self._changed:
                        self._begun -= 1
                        self._changed.notify_all()

            return in_turn

        return wrap

    @contextmanager
    def ending(self) -> Iterator[None]:
        """End the turns: wait for calls in progress, and block later ones until the context is left.

        Threads started since that have made no call yet get a second to make their first. Ctrl-C ends the wait.

        Raises:
            CacheError: this thread is in the middle of a call.
        """
        if self._owner == threading.get_ident():
            raise CacheError(
                "The compression was to be removed from within a request: leave the block or call remove() after it, "
                "or from another thread."
            )
        try:
            if not self._ended:
                self._await_newcomers()
            with self._changed:
                self._ending = True
                self._changed.wait_for(lambda: not self._begun)
        finally:
            try:
                yield
            finally:
                with self._changed:
                    self._ending, self._ended = False, True
                    self._changed.notify_all()

    def _await_newcomers(self) -> None:
        until = time.monotonic() + _GRACE
        self._known.add(threading.current_thread())
        while time.monotonic() < until and any(thread not in self._known for thread in threading.enumerate()):
            time.sleep(_POLL)

    def _begin(self) -> bool:
        """Register a call of this thread, unless the turns have ended; return whether it has to take its turn."""
        thread = threading.current_thread()
        with self._changed:
            while self._ending:
                self._changed.wait()
            if thread not in self._known:
                self._known.add(thread)
            self._begun += not self._ended
            return not self._ended

    def _owned(self, name: str, call: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        self._owner = threading.get_ident()
        try:
            return call(*args, **kwargs)
        finally:
            self._owner = None
            if self._finished is not None:
                self._finished(name)
