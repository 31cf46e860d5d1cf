"""Format figures as words and Markdown."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from .measurement import Figure


def number(value: float) -> str:
    """Format a number with three significant digits, or more if its integer part has more."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def with_unit(text: str, unit: str) -> str:
    """Format a number with its unit, if any."""
    return f"{text} {unit}" if unit else text


def shortened(revision: str) -> str:
    """Shorten a revision, keeping `-dirty`."""
    commit, dirty, _ = revision.partition("-dirty")
    return commit[:7] + dirty


def spanning(values: Iterable[float], unit: str) -> str:
    """Format the range of values."""
    found = sorted(values)
    low, high = number(found[0]), number(found[-1])
    return with_unit(low if low == high else f"{low} to {high}", unit)


def verdict(figures: Sequence[Figure]) -> str:
    """State whether figures reach their goals."""
    met = [one for one in figures if one.met]
    if len(met) == len(figures):
        return "reached"
    return f"reached by {len(met)} of {len(figures)}" if met else "not reached"


def written(figure: Figure) -> str:
    """Format a figure and its floor, in bold if it misses its goal."""
    floor = "" if figure.floor is None else f" (floor {number(figure.floor)})"
    text = with_unit(number(figure.measured), figure.unit) + floor
    return f"**{text}**" if figure.met is False else text


def ruled(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Format a Markdown table: the first row is the header, columns in `right` are right-aligned."""
    header, *body = rows
    rule = ["---:" if column in right else "---" for column in range(len(header))]
    return "".join("| " + " | ".join(row) + " |\n" for row in [header, rule, *body])


def listed(lines: Iterable[str]) -> str:
    """Format a Markdown list."""
    return "".join(f"- {line}\n" for line in lines)
