"""Failures and interrupts at a chosen call of any method."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest


def fail() -> None:
    raise OSError("lost")


def interrupt() -> None:
    """Press Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)


@contextmanager
def at_call(number: int, owner: Any, name: str, what: Callable[[], None], *, after: bool = False) -> Iterator[None]:
    """Do something before or after a certain call, counted from 1, of a method; a Ctrl-C raises KeyboardInterrupt."""
    method, calls = getattr(owner, name), [0]

    def call(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        mine = calls[0] == number
        if mine and not after:
            what()
        result = method(*args, **kwargs)
        if mine and after:
            what()
        return result

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(owner, name, call)
            yield
    finally:
        signal.signal(signal.SIGINT, before)
