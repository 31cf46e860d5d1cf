"""Recognise whole numbers."""

from __future__ import annotations

from numbers import Integral
from typing import Any


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number of Python or numpy, and not a bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)
