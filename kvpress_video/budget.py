"""How much a cache may hold: a ratio, a number of visual entries, or bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal, TypeAlias

from .errors import BudgetError

BudgetLike: TypeAlias = "Budget | str | int | float"

_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([a-z%]*)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """What a cache may hold.

    Attributes:
        amount: a fraction in (0, 1], a count of visual entries, or a count of bytes.
        unit: `"ratio"` and `"tokens"` count *visual* entries per layer and KV head, text comes on top; `"bytes"`
            counts everything that the cache holds: all layers, text and metadata included.
    """

    amount: float
    unit: Literal["ratio", "tokens", "bytes"]

    def __post_init__(self) -> None:
        if not 0 < self.amount < float("inf"):
            raise BudgetError(f"A budget must be above zero, got {self}. Ask for e.g. '25%', 6144 or '256MiB'.")
        if self.unit == "ratio" and self.amount > 1:
            raise BudgetError(f"A ratio cannot exceed 100%, got {self}. Leave compression off to keep everything.")

    @classmethod
    def parse(cls, value: BudgetLike) -> Budget:
        """Read `'25%'`, `0.25` (ratios), `6144`, `'6144'`, `'6144 tokens'`, `'256MiB'`, `'1.5GB'` (bytes).

        Raises:
            BudgetError: the value is none of these, is not above zero, or is a ratio above 100%.
        """
        if isinstance(value, Budget):
            return value
        if isinstance(value, bool) or not isinstance(value, (str, Real)):
            raise BudgetError(f"Cannot read the budget {value!r}: write e.g. '25%', 6144 or '256MiB'.")
        if isinstance(value, Integral):
            return cls(int(value), "tokens")
        if not isinstance(value, str):
            number = float(value)
            return cls(number, "tokens" if number > 1 and number.is_integer() else "ratio")
        match = _NUMBER.fullmatch(value)
        if match is None:
            raise BudgetError(f"Cannot read the budget {value!r}: write e.g. '25%', 6144 or '256MiB'.")
        number, unit = float(match[1]), match[2].lower()
        if unit == "%":
            return cls(number / 100, "ratio")
        if unit == "tokens":
            return cls(int(number), "tokens")
        if unit in _UNITS:
            return cls(number * _UNITS[unit], "bytes")
        if unit:
            raise BudgetError(f"Unknown unit {match[2]!r} in the budget {value!r}: use %, tokens, {', '.join(_UNITS)}.")
        return cls(number, "tokens" if number.is_integer() and "." not in match[1] else "ratio")

    def entries(self, tokens: int) -> int:
        """Entries that a ratio leaves of `tokens`, rounded half up; at most `amount` for a count."""
        return int(self.amount * tokens + 0.5) if self.unit == "ratio" else min(int(self.amount), tokens)

    def for_rows(self, rows: int) -> Budget:
        """What a batch may hold, each of whose rows may hold this: bytes count all rows, the others each row."""
        return Budget(self.amount * rows, "bytes") if self.unit == "bytes" else self

    @property
    def exact(self) -> str | int | float:
        """What `parse` reads as this budget again."""
        if self.unit == "bytes":
            return f"{int(self.amount)}B"
        return int(self.amount) if self.unit == "tokens" else self.amount

    def __str__(self) -> str:
        if self.unit == "ratio":
            return f"{self.amount * 100:g}%"
        if self.unit == "tokens":
            return f"{int(self.amount)} tokens"
        for unit in ("GiB", "MiB", "KiB"):
            if self.amount >= _UNITS[unit.lower()]:
                return f"{self.amount / _UNITS[unit.lower()]:g}{unit}"
        return f"{int(self.amount)}B"
