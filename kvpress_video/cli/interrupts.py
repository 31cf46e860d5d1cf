"""Ctrl-C of a command, one line and exit code 130, from the first import on; SIGTERM, one line while it runs."""

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
    """Records Ctrl-C and SIGTERM while a command runs, and raises them again if they were swallowed.

    Attributes:
        received: the latest of these signals; None if there was none.
    """

    def __init__(self) -> None:
        self.received: int | None = None

    @property
    def message(self) -> str:
        """The line that says how the command ended."""
        return "kvpress-video: terminated" if self.received == signal.SIGTERM else MESSAGE

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Raise KeyboardInterrupt on both signals inside the block; one that is ignored stays ignored."""
        stock = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
        main = threading.current_thread() is threading.main_thread()
        watched = {number: old for number, old in stock.items() if main and signal.getsignal(number) is old}
        before = sys.unraisablehook
        for number in watched:
            signal.signal(number, self._receive)
        sys.unraisablehook = self._again
        try:
            yield
        finally:
            sys.unraisablehook = before
            for number, old in watched.items():
                signal.signal(number, old)

    def end_by_sigterm(self) -> None:
        """End the process by SIGTERM if it was received, as whoever sent it expects."""
        if self.received == signal.SIGTERM:
            signal.raise_signal(signal.SIGTERM)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        raise KeyboardInterrupt

    def _again(self, unraisable: Any) -> None:
        """Raise a signal again that arrived in a destructor or a callback, which cannot raise."""
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            # A signal, since `interrupt_main` would wait for the end of a call that blocks.
            number = self.received or signal.SIGINT
            again = threading.Timer(_AGAIN, signal.pthread_kill, (threading.main_thread().ident, number))
            again.daemon = True
            again.start()
        else:
            sys.__unraisablehook__(unraisable)
