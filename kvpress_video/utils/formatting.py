"""Byte counts, durations and counts as text."""

from __future__ import annotations

_BINARY = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "B": 1}


def format_bytes(size: float, unit: str | None = None) -> str:
    """Format a byte count with three digits: `"186 KiB"`.

    Args:
        size: size in bytes.
        unit: a fixed binary unit, with two decimals: `"0.18 MiB"`. By default the largest one that the size fills.
    """
    if unit is not None:
        return f"{size / _BINARY[unit]:.2f} {unit}"
    unit = next((name for name, scale in _BINARY.items() if size >= scale), "B")
    return f"{_three_digits(size / _BINARY[unit])} {unit}"


def format_seconds(seconds: float) -> str:
    """Format a duration with three digits: `"12.3 ms"`, `"1.5 s"`."""
    return f"{_three_digits(seconds)} s" if seconds >= 1 else f"{_three_digits(seconds * 1e3)} ms"


def plural(count: int, noun: str) -> str:
    """Format a count as `1 clip` or `2 clips`, `1 entry` or `2 entries`."""
    many = f"{noun[:-1]}ies" if noun.endswith("ry") else f"{noun}s"
    return f"{count} {noun if count == 1 else many}"


def _three_digits(value: float) -> str:
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"
