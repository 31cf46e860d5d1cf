"""Template filters that format the numbers of the report page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..utils.formatting import format_bytes, format_seconds

if TYPE_CHECKING:
    from ..sweep.stats.inference import Difference, Interval


def _known(format: Any) -> Any:
    """Return a filter that writes a dash for unmeasured values."""
    return lambda value: "–" if value is None or math.isnan(value) else format(value)


def _percent(value: float) -> str:
    return f"{value:.1%}" if value < 0.0995 else f"{value:.0%}"


def _decimals(value: float) -> str:
    return f"{value:.2f}"


def _bounds(found: Interval) -> str:
    return f"[{found.low:.2f}, {found.high:.2f}]".replace("-", "−").replace("−0.00", "0.00")


def _gap(found: Difference) -> str:
    return f"{found.mean:+.2f}".replace("-", "−").replace("−0.00", "+0.00")


def _p(found: Difference) -> str:
    return "< 0.001" if found.p < 0.001 else f"{found.p:.2g}"


def _plain(value: Any) -> str:
    """Write nested values in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple, set)):
        return ", ".join(map(_plain, value))
    return "not set" if value is None else str(value)


FILTERS = {
    "decimals": _decimals,
    "gap": _gap,
    "bounds": _bounds,
    "p": _p,
    "percent": _known(_percent),
    "plain": _plain,
    "seconds": _known(format_seconds),
    "size": _known(format_bytes),
    "whole": _known("{:.0f}".format),
}
