"""Every error the package raises on purpose, and the one helper that words a near miss."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class KVPressVideoError(Exception):
    """Base class: catch this to catch everything the package raises on purpose."""


class BudgetError(KVPressVideoError, ValueError):
    """A budget that cannot be read, or that the method cannot reach."""


class UnknownNameError(KVPressVideoError, ValueError):
    """A method, setting or choice that does not exist."""


class UnsupportedModelError(KVPressVideoError, TypeError):
    """A model, attention implementation or cache that cannot be compressed."""


class CacheError(KVPressVideoError, RuntimeError):
    """A compressed cache used in a way that would give wrong answers."""


class MethodError(KVPressVideoError, RuntimeError):
    """A method that is declared wrongly, failed, or returned an unusable result."""


class MissingInputError(KVPressVideoError, ValueError):
    """Something that a method needs was not captured or not given."""


class VideoError(KVPressVideoError, ValueError):
    """A video that is missing, unreadable, or empty where it was asked for."""


class BenchmarkError(KVPressVideoError, ValueError):
    """A benchmark whose files are missing, or not what they should be."""


class SweepError(KVPressVideoError, ValueError):
    """A sweep that cannot be run as asked, or a store that cannot be read."""


def unknown_name(what: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """The error for a name that is not among `known`, with the nearest one suggested."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UnknownNameError(f"Unknown {what} {name!r}.{hint} Known: {', '.join(names) or 'none'}.")
