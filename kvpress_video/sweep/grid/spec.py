"""The grid of a sweep: what it is made of, checked before anything runs, and its cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import product
from typing import Any

from ...budget import Budget
from ...compressor.registry import UNCOMPRESSED, UNCOMPRESSED_BUDGET, make_method, split_list
from ...errors import BudgetError, KVPressVideoError, SweepError, UnknownNameError, unknown_name
from ..cells import Cell, Setup, prefill_of
from .validation import ITEMS, NEEDED, SETUP, WrongError

GridPath = tuple[str | int, ...]
"""Where something stands in a grid: `("methods", 2, "infinipot-v", "tar_ratio")`."""


@dataclass(frozen=True)
class Grid:
    """Every combination of these. `make_grid` and `read_grid` make one from what people write, and check it.

    Attributes:
        methods: `"tar"`, `"infinipot-v:tar_ratio=0.5"`; `"full"` is the uncompressed cache and has no budget.
        budgets: as in `Budget.parse`: `"25%"`, `"0.1"`, `"6144"`, `"256MiB"`.
        models: `"bundled"`, or a folder or hub name, with `":dtype=bfloat16,device_map=auto"` where asked.
        benchmarks: `"world"`, `"world:count=48,frames=32"`.
        seeds: of the benchmarks' draws.
        setup: what all cells share.
    """

    methods: tuple[str, ...]
    budgets: tuple[str, ...]
    models: tuple[str, ...] = ("bundled",)
    benchmarks: tuple[str, ...] = ("world",)
    seeds: tuple[int, ...] = (0,)
    setup: Setup = field(default_factory=Setup)

    def cells(self) -> list[Cell]:
        """Every combination once, by model, benchmark, seed, method and budget; the uncompressed cache at 100% only."""
        groups = product(self.models, self.benchmarks, self.seeds, self.methods)
        cells = [
            Cell(method, budget, model, benchmark, seed)
            for model, benchmark, seed, method in groups
            for budget in ((UNCOMPRESSED_BUDGET,) if method == UNCOMPRESSED else self.budgets)
        ]
        return list(dict.fromkeys(cells))

    def replaced(self, **parts: Any) -> Grid:
        """The grid with other parts, given as in `make_grid`.

        Raises:
            SweepError: as `make_grid`.
        """
        mine = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "setup"}
        return make_grid(**{**mine, **asdict(self.setup), **parts})


@dataclass(frozen=True)
class Problem:
    """Something wrong with a grid.

    Attributes:
        path: where.
        message: what, with what value, and what to do.
    """

    path: GridPath
    message: str

    def __str__(self) -> str:
        return f"{spell_path(self.path)}: {self.message}" if self.path else self.message


def spell_path(path: GridPath) -> str:
    """`methods[2].infinipot-v.tar_ratio`."""
    spelled = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return spelled.removeprefix(".")


def make_grid(**parts: Any) -> Grid:
    """A grid from Python values: the fields of `Grid` and of `Setup`, by name.

        make_grid(methods=["full", "tar", {"infinipot-v": {"tar_ratio": 0.5}}], budgets=["25%", 6144], batch=4)

    A list may also be one value. Models, benchmarks and methods are `"name"`, `"name:setting=value,…"`, or
    `{"name": {"setting": value}}`.

    Raises:
        SweepError: an unknown part, method, benchmark, setting or choice; a value of another type; a budget that cannot
            be read; a method that cannot work at the stage; an empty list; a model folder that is not there. All that
            is wrong is listed.
    """
    grid, problems = check_grid(parts)
    if problems:
        raise SweepError(list_problems([str(problem) for problem in problems], "The grid"))
    return grid


def list_problems(lines: Sequence[str], of: str) -> str:
    """One line as it is, more as a list."""
    return lines[0] if len(lines) == 1 else "\n  ".join([f"{of} has {len(lines)} errors:", *lines])


def flag_parts(**flags: Any) -> dict[str, Any]:
    """Parts of a grid from command-line flags: lists are written with commas, flags that are None were not given."""
    given = {name: value for name, value in flags.items() if value is not None}
    lists: dict[str, list[Any]] = {
        name: split_list(value) for name, value in given.items() if name in ITEMS and isinstance(value, str)
    }
    if "seeds" in lists:
        lists["seeds"] = [int(seed) if seed.isdecimal() else seed for seed in lists["seeds"]]
    return given | lists


def check_grid(parts: Mapping[str, Any]) -> tuple[Grid, list[Problem]]:
    """The grid that `make_grid` makes of some parts, and what is wrong with them; it is of use if nothing is."""
    inspection = _Inspection()
    for name in [name for name in parts if name not in ITEMS and name not in SETUP]:
        inspection.note((name,), unknown_name("part of a grid", str(name), [*ITEMS, *SETUP]))
    setup = inspection.setup(parts)
    found = {name: inspection.items(name, parts[name]) for name in ITEMS if name in parts}
    methods, budgets = found.setdefault("methods", {}), found.setdefault("budgets", {})
    if "methods" not in parts:
        inspection.note((), UnknownNameError(f"There are no methods: {NEEDED['methods']}."))
    if "budgets" not in parts and set(methods.values()) != {UNCOMPRESSED}:
        inspection.note((), UnknownNameError(f"There are no budgets: {NEEDED['budgets']}."))
    for place, method in methods.items():
        inspection.made(lambda method: _check_stage(method, setup), method, "methods", place)
    asked = [*budgets.values(), *([UNCOMPRESSED_BUDGET] if UNCOMPRESSED in methods.values() else [])]
    inspection.made(lambda budgets: _check_prefill(setup, budgets), asked, "prefill")
    lists = {name: tuple(dict.fromkeys(items.values())) for name, items in found.items()}
    lists["budgets"] = _distinct(lists["budgets"])
    return Grid(**lists, setup=setup), inspection.problems


class _Inspection:
    """Notes what is wrong, the first thing at each path."""

    def __init__(self) -> None:
        self._found: dict[GridPath, Problem] = {}

    @property
    def problems(self) -> list[Problem]:
        return list(self._found.values())

    def note(self, path: GridPath, error: Exception) -> None:
        self._found.setdefault(path, Problem(path, str(error)))

    def made(self, check: Callable[[Any], Any], value: Any, *path: str | int) -> list[Any]:
        """What a check makes of a value; nothing where it is wrong."""
        try:
            return [check(value)]
        except WrongError as error:
            self.note((*path, *error.path), error)
        except KVPressVideoError as error:
            self.note(path, error)
        return []

    def items(self, name: str, value: Any) -> dict[int, Any]:
        """What a list holds, by place."""
        items = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
        if not items:
            self.note((name,), UnknownNameError(f"The list is empty: {NEEDED[name]}."))
        return {place: made for place, item in enumerate(items) for made in self.made(ITEMS[name], item, name, place)}

    def setup(self, parts: Mapping[str, Any]) -> Setup:
        """What of a setup is right."""
        given = {name: self.made(check, parts[name], name) for name, check in SETUP.items() if name in parts}
        return Setup(**{name: made[0] for name, made in given.items() if made})


def _check_stage(method: str, setup: Setup) -> None:
    stages = make_method(method).stages
    if setup.stage not in stages:
        raise UnknownNameError(f"{method!r} cannot work at stage {setup.stage!r}, only at {' or '.join(stages)}.")


def _check_prefill(setup: Setup, budgets: Sequence[str]) -> None:
    try:
        for budget in budgets:
            prefill_of(setup, budget)
    except BudgetError as error:
        raise BudgetError(f"{error} In a grid use 'auto', which is chunked for budgets of tokens and bytes.") from error


def _distinct(budgets: Sequence[str]) -> tuple[str, ...]:
    """Budgets that mean the same, once, as the first is written."""
    written: dict[Budget, str] = {}
    for budget in budgets:
        written.setdefault(Budget.parse(budget), budget)
    return tuple(written.values())
