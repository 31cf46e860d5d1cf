"""Warnings of this package as lines on stderr, like errors: the code that caused them is none of the user's."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..utils.warnings import KVPressVideoWarning


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Show each warning of this package once inside the block, and others as usual."""
    shown: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if not issubclass(category, KVPressVideoWarning):
            usual(message, category, *place, **more)
        elif str(message) not in shown:
            shown.add(str(message))
            print(f"kvpress-video: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        usual, warnings.showwarning = warnings.showwarning, show
        yield
