"""Warnings that point at the line of the user's code that caused them."""

from __future__ import annotations

import sys
import warnings

_PACKAGE = __name__.partition(".")[0]


class KVPressVideoWarning(UserWarning):
    """A warning of this package."""


def warn_caller(message: str) -> None:
    """Issue a warning located at the innermost caller outside this package, so that it is shown once per line."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == _PACKAGE:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, KVPressVideoWarning, stacklevel=level)
