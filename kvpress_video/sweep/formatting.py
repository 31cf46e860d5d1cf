"""How figures are written in tables: two decimals, no leading zero, half an interval after ±."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .stats.inference import Interval


def short(value: float, sign: str = "") -> str:
    """`.07`, `-.07`, `1.00`; empty where there is no such number."""
    if not math.isfinite(value):
        return ""
    return f"{value:{sign}.2f}".replace("0.", ".", 1) if abs(value) < 0.995 else f"{value:{sign}.2f}"


def half(found: Interval | None, sign: str = "") -> str:
    """`.81±.05`; empty where there is none."""
    if found is None:
        return ""
    width = short((found.high - found.low) / 2)
    return short(found.mean, sign) + (f"±{width}" if width else "")


def bounds(found: Interval, sign: str = "") -> str:
    """`.81 (.76 to .86)`."""
    return f"{short(found.mean, sign)} ({short(found.low, sign)} to {short(found.high, sign) or '∞'})"


def probability(p: float) -> str:
    """`.03`, `<.001`."""
    return "<.001" if p < 0.001 else f"{p:.3f}".lstrip("0") if p < 0.1 else short(p)


def span(values: Sequence[float]) -> str:
    """`.05`, or `.05 to .09`."""
    ends = list(dict.fromkeys([short(min(values)), short(max(values))]))
    return " to ".join(ends)


def plural(count: int, what: str) -> str:
    """`1 clip`, `2 clips`."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def markdown_table(rows: Sequence[Sequence[str]], left: int) -> str:
    """The first row is the header; `left` columns are set to the left, the others to the right."""
    rule = ["---"] * left + ["---:"] * (len(rows[0]) - left)
    escaped = [[text.replace("|", "\\|").replace("\n", " ") for text in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in [escaped[0], rule, *escaped[1:]])
