"""One measured figure, with its goal and its floor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Goal:
    """A bound on a figure.

    Attributes:
        limit: limit in the unit of the figure.
        least: whether the limit is a lower bound rather than an upper one.
    """

    limit: float
    least: bool = False

    def met(self, measured: float) -> bool:
        """Whether a figure reaches the goal."""
        return measured >= self.limit if self.least else measured <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.least else '≤'} {self.limit:g}"


@dataclass(frozen=True)
class Figure:
    """One figure: one row of a results file.

    Attributes:
        benchmark: the program that measured it.
        case: method and size, such as `"tar, 24,576 entries"`; tables have a row per text before the first comma.
        what: the quantity, such as `"compressing ÷ copying keys and values"`.
        measured: value in `unit`.
        unit: `"×"`, `"%"`, `"ms"`, `"fps"` …; empty for pure numbers.
        goal: goal, or None without one on this kind of device.
        floor: the best possible value, or None.
        floor_is: the reason for the floor.
        raw: numbers behind the value: seconds, bytes, sizes, rounds.
    """

    benchmark: str
    case: str
    what: str
    measured: float
    unit: str
    goal: Goal | None = None
    floor: float | None = None
    floor_is: str = ""
    raw: Mapping[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether it reaches its goal; None without a goal."""
        return None if self.goal is None else self.goal.met(self.measured)

    def record(self) -> dict[str, Any]:
        """The row of a results file."""
        return asdict(self)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Figure:
        """Read a row of a results file."""
        known = {name: record[name] for name in cls.__dataclass_fields__ if name in record}
        goal = known.get("goal")
        return cls(**{**known, "goal": Goal(**goal) if goal else None})
