"""What SIGINT and SIGTERM do to the command before, while and after it listens."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

_BOTH = (signal.SIGINT, signal.SIGTERM)
_INTERRUPTED = 130
_SECONDS_TO_DIE = 5.0


@contextmanager
def _handled(handler: Callable[[int, Any], object], *numbers: signal.Signals) -> Iterator[None]:
    handlers = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, before in handlers.items():
            signal.signal(number, before)


@contextmanager
def noted() -> Iterator[None]:
    """Let uvicorn end by a signal without the process, which has replicas to end."""
    with _handled(lambda *_: None, *_BOTH):
        yield


@contextmanager
def interrupting() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt, as Ctrl-C does."""

    def interrupt(number: int, frame: Any) -> NoReturn:
        raise KeyboardInterrupt

    with _handled(interrupt, signal.SIGTERM):
        yield


@contextmanager
def ending_at_once(undo: Callable[[], object]) -> Iterator[None]:
    """End the process and its descendants on a signal, even inside calls that never heed one.

    `ray.init` waits for its processes in such a call.

    Args:
        undo: called, in another thread, before the process ends.
    """
    heard, told = os.pipe()
    os.set_blocking(told, False)
    with _handled(lambda *_: None, *_BOTH):
        before = signal.set_wakeup_fd(told)
        threading.Thread(target=_end_when_told, args=(heard, undo), daemon=True).start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            os.close(told)


def _end_when_told(heard: int, undo: Callable[[], object]) -> None:
    with open(heard, "rb", buffering=0) as numbers:
        while number := numbers.read(1):
            if number[0] in _BOTH:
                _end(undo)


def _end(undo: Callable[[], object]) -> NoReturn:
    import psutil  # Ray's own, which can be imported once Ray is

    os.write(2, b"kvpress-video: interrupted before Ray was ready\n")
    processes = psutil.Process().children(recursive=True)
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, _SECONDS_TO_DIE)
    undo()
    os._exit(_INTERRUPTED)
