"""Format numbers for tables: two decimals, no leading zero, intervals in brackets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .stats.inference import Interval


def short(value: float, sign: str = "") -> str:
    """Format as `.07`, `-.07` or `1.00`; empty for nan and infinity.

    Args:
        value: the number.
        sign: `"+"` to write the sign of positive numbers too.
    """
    if not math.isfinite(value):
        return ""
    return f"{value:{sign}.2f}".replace("0.", ".", 1) if abs(value) < 0.995 else f"{value:{sign}.2f}"


def interval(found: Interval | None, sign: str = "") -> str:
    """Format an interval as `.81 [.76, .86]`; without bounds if they are unknown, empty for None."""
    if found is None:
        return ""
    low, high = (short(value, sign) or ("∞" if value == math.inf else "") for value in (found.low, found.high))
    return short(found.mean, sign) + (f" [{low}, {high}]" if low and high else "")


def probability(p: float) -> str:
    """Format a p-value as `.03` or `<.001`."""
    return "<.001" if p < 0.001 else f"{p:.3f}".lstrip("0") if p < 0.1 else short(p)


def span(values: Sequence[float]) -> str:
    """Format the range of some values as `.05 to .09`, or as `.05` if all are equal."""
    ends = list(dict.fromkeys([short(min(values)), short(max(values))]))
    return " to ".join(ends)


def markdown_table(rows: Sequence[Sequence[str]], left: int) -> str:
    """Format rows as a Markdown table.

    Args:
        rows: the header, then the body.
        left: how many columns to align left; the others are aligned right.
    """
    rule = ["---"] * left + ["---:"] * (len(rows[0]) - left)
    escaped = [[text.replace("|", "\\|").replace("\n", " ") for text in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in [escaped[0], rule, *escaped[1:]])
