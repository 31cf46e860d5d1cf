"""Inside a process that `kvpress-video run` started: compress each model that was loaded, and say so on stderr."""

from __future__ import annotations

import json
import os
import weakref
from contextlib import suppress
from typing import Any

from ..budget import Budget
from ..errors import KVPressVideoError
from .patch import Ledger, patch

VARIABLE = "KVPRESS_VIDEO_RUN"
"""Environment variable with the arguments of `patch`, as JSON."""
_STDERR = 2
_last_words: list[weakref.finalize] = []


def deploy(loaded: Any) -> None:
    """Patch what `from_pretrained` returned; a model that cannot be compressed goes on as it is.

    Its statistics are said when it is unloaded, or when the process ends.
    """
    model = loaded[0] if isinstance(loaded, tuple) else loaded
    name = type(model).__name__
    settings = json.loads(os.environ[VARIABLE])
    try:
        ledger = patch(model, **settings).ledger
    except KVPressVideoError as error:
        say(f"{name} is NOT compressed: {error}")
        return
    say(f"{name} is compressed from now on: {settings['method']} at {Budget.parse(settings['budget'])}")
    _last_words[:] = [words for words in _last_words if words.alive]
    _last_words.append(weakref.finalize(model, _say_statistics, name, ledger))


def say_all_statistics() -> None:
    """Of every model that was not unloaded yet."""
    for words in _last_words:
        words()


def say(text: str) -> None:
    """Write a line to stderr at once and whole, from a signal handler too."""
    with suppress(OSError):
        os.write(_STDERR, f"kvpress-video [{os.getpid()}]: {text}\n".encode())


def _say_statistics(name: str, ledger: Ledger) -> None:
    say(f"{name}: {ledger.statistics}")
