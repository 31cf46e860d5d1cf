"""Grids from command-line flags, with errors that name the flags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...utils.named_settings import split_list
from .spec import Grid, Problem, valid_grid
from .validation import ITEMS


def flag_parts(**flags: Any) -> dict[str, Any]:
    """Convert command-line flags to parts of a grid: lists are separated by commas, None means not given."""
    given = {name: value for name, value in flags.items() if value is not None}
    lists: dict[str, list[Any]] = {
        name: split_list(value) for name, value in given.items() if name in ITEMS and isinstance(value, str)
    }
    if "seeds" in lists:
        lists["seeds"] = [int(seed) if seed.isdecimal() else seed for seed in lists["seeds"]]
    return given | lists


def grid_of_flags(parts: Mapping[str, Any], **names: str) -> Grid:
    """Make a grid of parts that flags gave.

    Args:
        parts: as `flag_parts` returns them.
        **names: how the command line calls a part, unless it is the flag of the same name.

    Raises:
        SweepError: as in `make_grid`; each error begins with the flag.
    """
    return valid_grid(parts, lambda problem: flag_line(problem, names))


def flag_line(problem: Problem, names: Mapping[str, str]) -> str:
    """Describe a problem by the flag that caused it; `names` as in `grid_of_flags`."""
    if not problem.path:
        return problem.message
    part = str(problem.path[0])
    return f"{names.get(part, '--' + part.replace('_', '-'))}: {problem.message}"
