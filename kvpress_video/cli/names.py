"""Check names in options before anything large is imported, so that a misspelt one is reported at once."""

from __future__ import annotations

from ..utils.entry_points import BENCHMARKS, METHODS, EntryPoints
from ..utils.named_settings import parse, split_list


def check_methods(text: str | None) -> None:
    """Check the names in a list of methods; their settings are checked where the methods are made.

    Raises:
        UnknownNameError: no installed package declares a method of that name.
    """
    _check(METHODS, text)


def check_benchmarks(text: str | None) -> None:
    """Check the names in a list of benchmarks, as `check_methods` does.

    Raises:
        UnknownNameError: no installed package declares a benchmark of that name.
    """
    _check(BENCHMARKS, text)


def _check(known: EntryPoints, text: str | None) -> None:
    for member in split_list(text or ""):
        known.get(parse(member)[0])
