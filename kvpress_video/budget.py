"""Budgets: how much a cache may hold, as a ratio, a number of visual entries, or bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias

from .errors import BudgetError, check_choice
from .utils.formatting import plural
from .utils.warnings import warn_caller

BudgetLike: TypeAlias = "Budget | str | int | float"
Unit = Literal["ratio", "tokens", "bytes"]

UNCOMPRESSED, UNCOMPRESSED_BUDGET = "full", "100%"
"""The method that keeps everything, and the budget that it runs at."""

_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([a-z%]*)\s*", re.IGNORECASE)
_MOST = 2**63  # entries or bytes, more than any cache holds
_EXAMPLES, _CAPS = "'25%', 6144 or '256MiB'", "6144 (visual entries) or '256MiB'"


@dataclass(frozen=True)
class Budget:
    """The size limit of a cache.

    Attributes:
        amount: a fraction in (0, 1], a count of visual entries, or a count of bytes.
        unit: `"ratio"` and `"tokens"` count *visual* entries per layer and KV head, and text is kept in addition;
            `"bytes"` counts the whole cache: all layers, with text and metadata.
    """

    amount: float
    unit: Unit

    def __post_init__(self) -> None:
        check_choice("unit of a budget", self.unit, Unit)
        if isinstance(self.amount, bool) or not isinstance(self.amount, Real):
            raise BudgetError(f"The amount of a budget is a number, got {self.amount!r}.")
        if not 0 < self.amount < _MOST:
            if self.amount >= _MOST:
                raise BudgetError("A budget must be below 2**63.")
            unit = "of the visual tokens" if self.unit == "ratio" else self.unit
            raise BudgetError(f"A budget must be above zero, got {self.amount!s:.40} {unit}.")
        if self.unit == "ratio" and self.amount > 1:
            raise BudgetError(f"A ratio cannot exceed 100%, got {self}. Leave compression off to keep everything.")

    @classmethod
    def parse(cls, value: BudgetLike) -> Budget:
        """Parse a budget.

        Args:
            value: `'25%'` or `0.25` (ratios), `6144`, `'6144'` or `'6144 tokens'` (visual entries), `'256MiB'` or
                `'1.5GB'` (bytes), or a `Budget`. Numpy's integers and floats count as numbers. `1` is one visual entry
                and `1.0` is 100%; both warn, and say how to write the other.

        Raises:
            BudgetError: the value is none of these, is not above zero, is infinite, or is a ratio above 100%.
        """
        return cls._parsed(value, _EXAMPLES)

    @classmethod
    def parse_cap(cls, value: BudgetLike) -> Budget:
        """Parse a budget that caps an endless stream or a server: visual entries or bytes.

        Args:
            value: as in `parse`, but no ratio.

        Raises:
            BudgetError: as in `parse`, or the value is a ratio.
        """
        parsed = cls._parsed(value, _CAPS)
        if parsed.unit == "ratio":
            raise BudgetError(f"{parsed} is not a cap: give a budget of visual entries or bytes, e.g. {_CAPS}.")
        return parsed

    @classmethod
    def _parsed(cls, value: Any, examples: str) -> Budget:
        if isinstance(value, Budget):
            return value
        try:
            parsed = cls._read(value)
        except BudgetError as error:
            raise BudgetError(f"{error} Write e.g. {examples}.") from error
        if parsed.amount == 1 and not (isinstance(value, str) and re.search(r"[a-z%]", value, re.IGNORECASE)):
            if parsed.unit == "tokens":
                read, other = "one visual entry per layer: write '1 token' to say so", "'100%' to keep everything"
            else:
                read, other = "100%, which keeps everything: write '100%' to say so", "'1 token' for one visual entry"
            warn_caller(f"The budget {value!r} is read as {read}, or {other}.")
        return parsed

    @classmethod
    def _read(cls, value: Any) -> Budget:
        if isinstance(value, bool) or not isinstance(value, (str, Real)):
            raise BudgetError(f"Cannot read the budget {value!r:.80}.")
        if isinstance(value, Integral):
            return cls(int(value), "tokens")
        if not isinstance(value, str):
            try:
                number = float(value)
            except OverflowError as error:
                raise BudgetError("A budget must be above zero and below 2**63.") from error
            return cls(int(number), "tokens") if number > 1 and number.is_integer() else cls(number, "ratio")
        match = _NUMBER.fullmatch(value)
        if match is None:
            raise BudgetError(f"Cannot read the budget {value!r:.80}.")
        digits, unit = match[1], match[2].lower()
        number, whole = float(digits), "." not in digits
        if unit == "%":
            return cls(number / 100, "ratio")
        if unit in _UNITS:
            return cls(number * _UNITS[unit], "bytes")
        if unit not in ("", "token", "tokens"):
            raise BudgetError(
                f"Unknown unit {match[2]!r:.80} in the budget {value!r:.80}; units are %, tokens, {', '.join(_UNITS)}."
            )
        if unit and number < _MOST and not number.is_integer():
            raise BudgetError(f"A budget of tokens is a whole number, got {value!r:.80}.")
        return cls(number if number >= _MOST else int(number), "tokens") if whole or unit else cls(number, "ratio")

    def entries(self, tokens: int) -> int:
        """Return how many of `tokens` entries the budget keeps: a ratio of them, rounded half up, or at most `amount`.

        A budget in bytes needs the size of an entry, see `cache.allocation`.
        """
        return int(self.amount * tokens + 0.5) if self.unit == "ratio" else min(int(self.amount), tokens)

    def for_rows(self, rows: int) -> Budget:
        """Return the budget of a batch whose rows may each hold this one: bytes count all rows, other units each."""
        return Budget(self.amount * rows, "bytes") if self.unit == "bytes" else self

    @property
    def exact(self) -> str | int | float:
        """The plain value that `parse` reads as this budget, without a warning."""
        if self.unit == "bytes":
            return f"{int(self.amount)}B"
        if self.unit == "tokens":
            return "1 token" if self.amount == 1 else int(self.amount)
        return "100%" if self.amount == 1 else self.amount

    def __str__(self) -> str:
        if self.unit == "ratio":
            return f"{self.amount * 100:g}%"
        if self.unit == "tokens":
            return plural(int(self.amount), "token")
        for unit in ("GiB", "MiB", "KiB"):
            if self.amount >= _UNITS[unit.lower()]:
                return f"{self.amount / _UNITS[unit.lower()]:g}{unit}"
        return f"{int(self.amount)}B"
