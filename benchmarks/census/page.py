"""The census as text: counts per version of transformers, and one table of types with a column per version."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .other_kinds import OTHER_KINDS
from .rows import LIMITS, Row

_UNCHECKED = ("no tiny model", "no synthetic prompt could be run: its vision tower accepts")
_ABSENT, _SAME = "–", "same"


def census(versions: Mapping[str, Sequence[Row]]) -> str:
    """Format the census of several versions of transformers, the newest first.

    Args:
        versions: rows by version of transformers.
    """
    names = sorted(versions, key=lambda name: tuple(map(int, name.split("."))), reverse=True)
    newest_first = {name: versions[name] for name in names}
    return "\n".join([_figures(newest_first), _others(newest_first), _table(newest_first)])


def counts(version: str, rows: Sequence[Row]) -> str:
    """Format the counts of one version as a table row."""
    general = sum(row.adapter == "general" for row in rows)
    none = [row for row in rows if not row.adapter]
    unchecked = sum(row.reason.startswith(_UNCHECKED) for row in none)
    eligible = [row for row in rows if row.model_type not in OTHER_KINDS]
    served = sum(bool(row.adapter) for row in eligible)
    numbers = (len(rows), len(rows) - general - len(none), general, len(none) - unchecked, unchecked)
    share = f"{served} of {len(eligible)} ({served / len(eligible):.0%})"
    return f"| {version} | {' | '.join(map(str, numbers))} | {share} |"


def _figures(versions: Mapping[str, Sequence[Row]]) -> str:
    columns = ("registered types", "dedicated adapter", "general adapter", "not supported", "not checked")
    lines = [f"| transformers | {' | '.join(columns)} | supported decoders |", "|---|---:|---:|---:|---:|---:|---:|"]
    return "\n".join(lines + [counts(name, rows) for name, rows in versions.items()]) + "\n"


def _others(versions: Mapping[str, Sequence[Row]]) -> str:
    """List the types without visual tokens in the cache of a decoder."""
    types = sorted({row.model_type for rows in versions.values() for row in rows} & OTHER_KINDS.keys())
    groups = _grouped(types, OTHER_KINDS.__getitem__)
    return (
        "*Supported decoders* counts the types that hold visual tokens in the KV cache of an autoregressive decoder, "
        f"all but these: {'; '.join(f'{each} ({kind})' for kind, each in groups.items())}.\n"
    )


def _table(versions: Mapping[str, Sequence[Row]]) -> str:
    """Group types with the same support in all versions: dedicated adapter, general adapter, unsupported."""
    found = {name: {row.model_type: row for row in rows} for name, rows in versions.items()}
    types = dict.fromkeys(row.model_type for rows in versions.values() for row in rows)
    groups = _grouped(types, lambda each: tuple(_outcome(rows.get(each)) for rows in found.values()))
    lines = [f"| model types | {' | '.join(versions)} |", "|---" * (1 + len(versions)) + "|"]
    for outcomes, grouped in sorted(groups.items(), key=lambda group: _order(group[0])):
        lines.append(f"| {grouped} | {' | '.join(_cells(outcomes))} |")
    return "\n".join(lines) + "\n"


def _cells(outcomes: Sequence[str]) -> list[str]:
    """Write `same` if a version equals the newer one to its left."""
    newer = ("", *outcomes)
    return [_SAME if each == left != _ABSENT else each for each, left in zip(outcomes, newer, strict=False)]


def _order(outcomes: Sequence[str]) -> tuple[int, ...]:
    """Order groups by the support in the newest version, then in older ones."""
    kinds = ("dedicated", "general", "none", _ABSENT)
    return tuple(next(place for place, kind in enumerate(kinds) if each.startswith(kind)) for each in outcomes)


def _outcome(row: Row | None) -> str:
    if row is None:
        return _ABSENT
    if not row.adapter:
        return f"none: {_summary(row)}"
    if row.adapter != "general":
        return "dedicated"
    limits = [LIMITS[each] for each in row.refused] + ([] if row.grid else ["no grid for some items"])
    return f"general: {', '.join(limits)}" if limits else "general"


def _summary(row: Row) -> str:
    """Shorten the reason for an unsupported type; the results file has the full text."""
    if "its generate() passes" in row.reason:
        return "its generate() passes embeddings to its language model, without the placeholder tokens"
    return row.reason.removeprefix("no synthetic prompt could be run: ").replace("|", "\\|")


def _grouped(types: Iterable[str], key: Callable[[str], Any]) -> dict[Any, str]:
    found: dict[Any, list[str]] = {}
    for each in types:
        found.setdefault(key(each), []).append(f"`{each}`")
    return {outcome: ", ".join(alike) for outcome, alike in found.items()}
