"""Runs in processes started by `kvpress-video run`: compress each loaded model and report on stderr."""

from __future__ import annotations

import json
import os
import weakref
from contextlib import suppress
from typing import Any

from ..budget import Budget
from ..errors import KVPressVideoError
from .patch import StatsHolder, patch

VARIABLE = "KVPRESS_VIDEO_RUN"
"""Environment variable with the arguments of `patch` as JSON."""
_STDERR = 2
_final_reports: list[weakref.finalize] = []


def deploy(loaded: Any) -> None:
    """Patch the result of `from_pretrained`; leave a model that cannot be compressed unchanged.

    Its statistics are printed when it is unloaded or the process ends.
    """
    model = loaded[0] if isinstance(loaded, tuple) else loaded
    name = type(model).__name__
    settings = json.loads(os.environ[VARIABLE])
    try:
        holder = patch(model, **settings).holder
    except KVPressVideoError as error:
        log(f"{name} is NOT compressed: {error}")
        return
    log(f"{name} is compressed from now on: {settings['method']} at {Budget.parse(settings['budget'])}")
    _final_reports[:] = [report for report in _final_reports if report.alive]
    _final_reports.append(weakref.finalize(model, _log_stats, name, holder))


def log_all_stats() -> None:
    """Print the statistics of every model that is still loaded."""
    for report in _final_reports:
        report()


def log(text: str) -> None:
    """Write a line to stderr, unbuffered and in one call, so that signal handlers may use it."""
    with suppress(OSError):
        os.write(_STDERR, f"kvpress-video [{os.getpid()}]: {text}\n".encode())


def _log_stats(name: str, holder: StatsHolder) -> None:
    log(f"{name}: {holder.stats}")
