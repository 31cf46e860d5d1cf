"""Figures as words and markdown."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from .measurement import Figure


def number(value: float) -> str:
    """Three digits of it, more where it has more before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def shortened(revision: str) -> str:
    """The first digits of a revision, and that the checkout was changed where it was."""
    commit, dirty, _ = revision.partition("-dirty")
    return commit[:7] + dirty


def spanning(values: Iterable[float], unit: str) -> str:
    """From the least to the most."""
    found = sorted(values)
    low, high = number(found[0]), number(found[-1])
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"


def verdict(figures: Sequence[Figure]) -> str:
    """Whether figures are what was asked."""
    met = [one for one in figures if one.met]
    if len(met) == len(figures):
        return "reached"
    return f"reached by {len(met)} of {len(figures)}" if met else "not reached"


def written(figure: Figure) -> str:
    """What was measured, and its floor."""
    floor = "" if figure.floor is None else f" (floor {number(figure.floor)})"
    text = f"{number(figure.measured)} {figure.unit}{floor}"
    return f"**{text}**" if figure.met is False else text


def ruled(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """A markdown table; the first row is its header, some columns stand to the right."""
    header, *body = rows
    rule = ["---:" if column in right else "---" for column in range(len(header))]
    return "".join("| " + " | ".join(row) + " |\n" for row in [header, rule, *body])


def listed(lines: Iterable[str]) -> str:
    """A markdown list."""
    return "".join(f"- {line}\n" for line in lines)
