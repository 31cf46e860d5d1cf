"""Ctrl-C of a command: one line and exit code 130, from the first import on."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

INTERRUPTED = 130
_AGAIN = 0.01  # seconds: by then the callback has returned
MESSAGE = "kvpress-video: interrupted"


def replaceable() -> bool:
    """Return whether Ctrl-C raises KeyboardInterrupt: in the main thread, with the default signal handler."""
    main = threading.current_thread() is threading.main_thread()
    return main and signal.getsignal(signal.SIGINT) is signal.default_int_handler


@contextmanager
def ending_at_once() -> Iterator[None]:
    """End the process on Ctrl-C inside a block of imports, in which an exception might be lost or changed."""
    if not replaceable():
        yield
        return
    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def end(number: int = 0, frame: FrameType | None = None) -> NoReturn:
    """End the process as if interrupted, without clean-up."""
    os.write(2, f"{MESSAGE}\n".encode())
    os._exit(INTERRUPTED)


class Interrupts:
    """Records Ctrl-C while a command runs, and raises it again if it was swallowed.

    Attributes:
        received: whether Ctrl-C was pressed.
    """

    def __init__(self) -> None:
        self.received = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch Ctrl-C inside the block."""
        if not replaceable():
            yield
            return
        before = sys.unraisablehook
        signal.signal(signal.SIGINT, self._receive)
        sys.unraisablehook = self._again
        try:
            yield
        finally:
            sys.unraisablehook = before
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        raise KeyboardInterrupt

    def _again(self, unraisable: Any) -> None:
        """Raise a Ctrl-C again that arrived in a destructor or a callback, which cannot raise."""
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            # A signal, since `interrupt_main` would wait for the end of a call that blocks.
            again = threading.Timer(_AGAIN, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
            again.daemon = True
            again.start()
        else:
            sys.__unraisablehook__(unraisable)
