"""Structured logs: one line of JSON per event, without any user content."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from typing import Any

logger = logging.getLogger("kvpress_video.server")


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line: time, level, event and its fields."""
        head = {"time": round(record.created, 3), "level": record.levelname.lower(), "event": record.getMessage()}
        return json.dumps(head | getattr(record, "facts", {}))


def log(event: str, level: int = logging.INFO, **facts: Any) -> None:
    """Log an event with its fields."""
    logger.log(level, event, extra={"facts": facts})


def log_failure(request: str, error: BaseException) -> None:
    """Log the type and location of an unexpected error, but not its message, which may quote users."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-8:]]
    log("failure", logging.ERROR, request=request, error=type(error).__name__, places=places)


def log_to_stderr() -> None:
    """Write the server's log to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


class Stopwatch:
    """Measures the milliseconds since its creation."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def milliseconds(self) -> float:
        """Elapsed time."""
        return round(1e3 * (time.perf_counter() - self._start), 1)
