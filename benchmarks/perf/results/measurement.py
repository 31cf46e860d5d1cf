"""One measured figure, beside what was asked and what would be possible."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Goal:
    """What a figure is asked to be.

    Attributes:
        limit: in the figure's unit.
        least: whether more is better; else less is.
    """

    limit: float
    least: bool = False

    def met(self, measured: float) -> bool:
        """Whether a figure is what was asked."""
        return measured >= self.limit if self.least else measured <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.least else '≤'} {self.limit:g}"


@dataclass(frozen=True)
class Figure:
    """One figure: one row of a results file.

    Attributes:
        benchmark: which program measured it.
        case: what it was measured on, such as `"tar, 24,576 entries"`.
        what: what it says, such as `"compressing ÷ copying keys and values"`.
        measured: in `unit`.
        unit: `"×"`, `"%"`, `"ms"`, `"fps"` …
        goal: what was asked, None where nothing was asked on this kind of device.
        floor: the best that is possible, None where nothing bounds it.
        floor_is: why it is that.
        raw: what it was computed from: seconds, bytes, sizes, rounds.
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
        """Whether it is what was asked; None where nothing was."""
        return None if self.goal is None else self.goal.met(self.measured)

    def record(self) -> dict[str, Any]:
        """As a results file holds it."""
        return asdict(self)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Figure:
        """From what a results file holds."""
        known = {name: record[name] for name in cls.__dataclass_fields__ if name in record}
        goal = known.get("goal")
        return cls(**{**known, "goal": Goal(**goal) if goal else None})
