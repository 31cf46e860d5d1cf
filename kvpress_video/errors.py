"""Exceptions of the package, and the message for an unknown name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any, get_args

_SHORTEST_START = 3
"""Letters of the shortest beginning of a name that is recognised."""


class KVPressVideoError(Exception):
    """Base class of all exceptions of the package."""


class BudgetError(KVPressVideoError, ValueError):
    """A budget that cannot be parsed or met, or a setting of a method that is out of range."""


class UnknownNameError(KVPressVideoError, ValueError):
    """An unknown method, setting or choice."""


class UnsupportedModelError(KVPressVideoError, TypeError):
    """A model, attention implementation or cache that cannot be compressed."""


class CacheError(KVPressVideoError, RuntimeError):
    """A use of a compressed cache that would give wrong answers."""


class MethodError(KVPressVideoError, RuntimeError):
    """A method that is declared wrongly, raised an exception, or returned an unusable result."""


class MissingInputError(KVPressVideoError, ValueError):
    """A required input of a method or model that was not captured or not given."""


class QuestionError(KVPressVideoError, ValueError):
    """A question that is not a string, or that contains special tokens of the model."""


class VideoError(KVPressVideoError, ValueError):
    """A video that is missing or unreadable, or that has no frames in the requested range."""


class BenchmarkError(KVPressVideoError, ValueError):
    """A benchmark whose files are missing or invalid."""


class SweepError(KVPressVideoError, ValueError):
    """A sweep that cannot run as requested, or a store that cannot be read."""


def check_choice(what: str, value: Any, choices: Any) -> None:
    """Check that a value is one of a `Literal` type.

    Args:
        what: noun for the value.
        value: value to check.
        choices: the `Literal`.

    Raises:
        UnknownNameError: it is none.
    """
    if value not in (known := get_args(choices)):
        raise unknown_name(what, str(value), known)


def unknown_name(what: str, name: str, known: Iterable[str], listing: str = "") -> UnknownNameError:
    """Build the error for an unknown name, which suggests the nearest valid one.

    Args:
        what: noun for the named thing.
        name: the unknown name.
        known: all valid names.
        listing: command that lists them; with a suggestion the message names it instead of all valid names.
    """
    names = sorted(known)
    near = _nearest(name, names)
    hint = f" Did you mean {near!r}?" if near else ""
    others = f"See {listing}." if near and listing else f"Known: {', '.join(names) or 'none'}."
    return UnknownNameError(f"Unknown {what} {name!r}.{hint} {others}")


def _nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the valid name that starts with a misspelt one, whole or at a hyphen, or else the most similar one.

    Case, hyphens and underscores do not count.
    """
    names = sorted(known, key=len)
    letters = {_letters(each): each for each in reversed(names)}
    wanted = _letters(name)
    if len(wanted) >= _SHORTEST_START:
        for each in names:
            parts = re.split(r"[\W_]+", each)
            if any(_letters("".join(parts[first:])).startswith(wanted) for first in range(len(parts))):
                return each
    return next((letters[each] for each in difflib.get_close_matches(wanted, letters, n=1)), None)


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()
