"""The grid of a sweep: its parts, checked before anything runs, and its cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import product
from math import prod
from typing import Any

from ...budget import UNCOMPRESSED, UNCOMPRESSED_BUDGET, Budget
from ...cache.quantization import UNQUANTIZED
from ...compressor.registry import make_method
from ...errors import BudgetError, CacheError, KVPressVideoError, SweepError, UnknownNameError, unknown_name
from ..cells import Cell, Setup, prefill_of
from .validation import ITEMS, NEEDED, SETUP, InvalidValueError

MAX_CELLS = 1_000_000

GridPath = tuple[str | int, ...]
"""Location in a grid: `("methods", 2, "infinipot-v", "tar_ratio")`."""


@dataclass(frozen=True)
class Grid:
    """All combinations of models, benchmarks, methods, budgets and seeds; made and checked by `make_grid`.

    Attributes:
        methods: `"tar"`, `"infinipot-v:tar_ratio=0.5"`; `"full"` is the uncompressed cache and has no budget.
        budgets: as in `Budget.parse`: `"25%"`, `"0.1"`, `"6144"`, `"256MiB"`.
        models: `"bundled"`, or a folder or hub name, with optional `":dtype=bfloat16,device_map=auto"`.
        benchmarks: `"world"`, `"world:count=48,frames=32"`.
        seeds: seeds of the benchmarks' sampling, and of methods that draw random numbers.
        setup: shared by all cells.
        quantize: bits of cached keys and values, as in `compress`: `"none"`, `"8"`, `"4:residual_length=0"`.
    """

    methods: tuple[str, ...]
    budgets: tuple[str, ...]
    models: tuple[str, ...] = ("bundled",)
    benchmarks: tuple[str, ...] = ("world",)
    seeds: tuple[int, ...] = (0,)
    setup: Setup = field(default_factory=Setup)
    quantize: tuple[str, ...] = (UNQUANTIZED,)

    @property
    def most_cells(self) -> int:
        """The number of combinations, duplicates included."""
        return prod(map(len, (self.models, self.benchmarks, self.seeds, self.methods, self.budgets, self.quantize)))

    def cells(self) -> list[Cell]:
        """List every combination once, by model, benchmark, seed, method, bits and budget; `full` at 100% only."""
        groups = product(self.models, self.benchmarks, self.seeds, self.methods, self.quantize)
        cells = [
            Cell(method, budget, model, benchmark, seed, quantize)
            for model, benchmark, seed, method, quantize in groups
            for budget in ((UNCOMPRESSED_BUDGET,) if method == UNCOMPRESSED else self.budgets)
        ]
        return list(dict.fromkeys(cells))

    def replaced(self, **parts: Any) -> Grid:
        """Return the grid with some parts replaced, given as in `make_grid`.

        Raises:
            SweepError: as in `make_grid`.
        """
        mine = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "setup"}
        return make_grid(**{**mine, **asdict(self.setup), **parts})


@dataclass(frozen=True)
class Problem:
    """An error in a grid.

    Attributes:
        path: its location.
        message: the error, with the value and the remedy.
    """

    path: GridPath
    message: str

    def __str__(self) -> str:
        return f"{format_path(self.path)}: {self.message}" if self.path else self.message


def format_path(path: GridPath) -> str:
    """Format a location as `methods[2].infinipot-v.tar_ratio`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def make_grid(**parts: Any) -> Grid:
    """Make a grid from Python values: the fields of `Grid` and of `Setup`, by name.

        make_grid(methods=["full", "tar", {"infinipot-v": {"tar_ratio": 0.5}}], budgets=["25%", 6144], batch=4)

    A list may also be a single value. Models, benchmarks and methods are `"name"`, `"name:setting=value,…"`, or
    `{"name": {"setting": value}}`.

    Raises:
        SweepError: an unknown part, method, benchmark, setting or choice; a value of the wrong type; a budget that
            cannot be parsed; a method that does not support the stage; an empty list; a missing model folder. All
            errors are listed.
    """
    return valid_grid(parts, str)


def valid_grid(parts: Mapping[str, Any], describe: Callable[[Problem], str]) -> Grid:
    """Make a grid as `make_grid` does; `describe` formats each problem."""
    grid, problems = check_grid(parts)
    if problems:
        raise SweepError(list_problems([describe(problem) for problem in problems], "The grid"))
    return grid


def list_problems(lines: Sequence[str], subject: str) -> str:
    """Return a single line as it is, and several as a list with a heading."""
    return lines[0] if len(lines) == 1 else "\n  ".join([f"{subject} has {len(lines)} errors:", *lines])


def check_grid(parts: Mapping[str, Any]) -> tuple[Grid, list[Problem]]:
    """Make a grid as `make_grid` does, and list its problems; the grid is valid only if there are none."""
    checker = _Checker()
    for name in [name for name in parts if name not in ITEMS and name not in SETUP]:
        checker.add((name,), unknown_name("part of a grid", str(name), [*ITEMS, *SETUP]))
    setup = checker.setup(parts)
    found = {name: checker.items(name, parts[name]) for name in ITEMS if name in parts}
    methods, budgets = found.setdefault("methods", {}), found.setdefault("budgets", {})
    if "methods" not in parts:
        checker.add((), UnknownNameError(f"There are no methods: {NEEDED['methods']}."))
    if "budgets" not in parts and set(methods.values()) != {UNCOMPRESSED}:
        checker.add((), UnknownNameError(f"There are no budgets: {NEEDED['budgets']}."))
    for place, quantize in found.get("quantize", {}).items():
        checker.checked(lambda quantize: _check_positions(quantize, setup), quantize, "quantize", place)
    for place, method in methods.items():
        checker.checked(lambda method: _check_stage(method, setup), method, "methods", place)
    asked = [*budgets.values(), *([UNCOMPRESSED_BUDGET] if UNCOMPRESSED in methods.values() else [])]
    checker.checked(lambda budgets: _check_prefill(setup, budgets), asked, "prefill")
    lists = {name: tuple(dict.fromkeys(items.values())) for name, items in found.items()}
    lists["budgets"] = _distinct(lists["budgets"])
    grid = Grid(**lists, setup=setup)
    if (most := grid.most_cells) > MAX_CELLS:
        checker.add((), SweepError(f"The grid has up to {most:,} cells, and a sweep at most {MAX_CELLS:,}: split it."))
    return grid, checker.problems


class _Checker:
    """Collects the problems of a grid, the first one at each location."""

    def __init__(self) -> None:
        self._found: dict[GridPath, Problem] = {}

    @property
    def problems(self) -> list[Problem]:
        return list(self._found.values())

    def add(self, path: GridPath, error: Exception) -> None:
        self._found.setdefault(path, Problem(path, str(error)))

    def checked(self, check: Callable[[Any], Any], value: Any, *path: str | int) -> list[Any]:
        """Return a list with the checked value; an empty one if it is invalid."""
        try:
            return [check(value)]
        except InvalidValueError as error:
            self.add((*path, *error.path), error)
        except KVPressVideoError as error:
            self.add(path, error)
        return []

    def items(self, name: str, value: Any) -> dict[int, Any]:
        """Return the valid items of a list, by their index."""
        items = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
        if not items:
            self.add((name,), UnknownNameError(f"The list is empty: {NEEDED[name]}."))
        return {
            place: found for place, item in enumerate(items) for found in self.checked(ITEMS[name], item, name, place)
        }

    def setup(self, parts: Mapping[str, Any]) -> Setup:
        """Make a setup of the valid parts."""
        given = {name: self.checked(check, parts[name], name) for name, check in SETUP.items() if name in parts}
        return Setup(**{name: found[0] for name, found in given.items() if found})


def _check_stage(method: str, setup: Setup) -> None:
    stages = make_method(method).stages
    if setup.stage not in stages:
        raise UnknownNameError(f"{method!r} cannot work at stage {setup.stage!r}, only at {' or '.join(stages)}.")


def _check_positions(quantize: str, setup: Setup) -> None:
    if quantize != UNQUANTIZED and setup.positions == "compact":
        raise CacheError(
            f"{quantize} bits do not go with positions 'compact', which re-rotate cached keys: use 'keep', or leave "
            "quantize out."
        )


def _check_prefill(setup: Setup, budgets: Sequence[str]) -> None:
    try:
        for budget in budgets:
            prefill_of(setup, budget)
    except BudgetError as error:
        raise BudgetError(f"{error} In a grid use 'auto', which is chunked for budgets of tokens and bytes.") from error


def _distinct(budgets: Sequence[str]) -> tuple[str, ...]:
    """Drop budgets that equal an earlier one."""
    written: dict[Budget, str] = {}
    for budget in budgets:
        written.setdefault(Budget.parse(budget), budget)
    return tuple(written.values())
