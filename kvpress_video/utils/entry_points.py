"""The packages behind entry points."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint

_OWN = "kvpress-video"


def package_of(point: EntryPoint) -> str:
    """Name the package that declares an entry point."""
    name = _distribution(point)
    return f"package {name}" if name else "an unnamed package"


def is_own(point: EntryPoint) -> bool:
    """Whether this package declares an entry point itself."""
    return re.sub(r"[-_.]+", "-", _distribution(point)).lower() == _OWN


def _distribution(point: EntryPoint) -> str:
    return getattr(getattr(point, "dist", None), "name", None) or ""
