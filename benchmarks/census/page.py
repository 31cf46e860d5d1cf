"""The census as text: one table for the newest transformers, and what differs in older ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from .other_kinds import OTHER_KINDS
from .rows import LIMITS, Row

_FORMAT = "not checked: no synthetic prompt runs on it, use `kv.inspect(model, inputs)`"
_BUILD = "not checked: no tiny model can be built from its default configuration"


def census(versions: Mapping[str, Sequence[Row]]) -> str:
    """Format the census of several versions of transformers, the newest first.

    Args:
        versions: the rows of each.
    """
    newest, *older = sorted(versions, key=lambda name: tuple(map(int, name.split("."))), reverse=True)
    parts = [counts(newest, versions[newest]), table(versions[newest])]
    for version in older:
        known = {row.model_type: _outcome(row) for row in versions[newest]}
        others = [row for row in versions[version] if known.get(row.model_type) != _outcome(row)]
        parts += [counts(version, versions[version])]
        parts += ["Types that differ:\n", table(others)] if others else []
    return "\n".join(parts)


def table(rows: Sequence[Row]) -> str:
    """Format a table of types: dedicated adapters, general adapter, unsupported."""
    lines = ["| model types | adapter | limits, or why not supported |", "|---|---|---|"]
    dedicated = [row for row in rows if row.adapter not in ("", "general")]
    lines += [f"| {types} | dedicated | |" for types in _grouped(dedicated, lambda row: row.adapter).values()]
    served = sorted((row for row in rows if row.adapter == "general"), key=lambda row: len(_limits(row)))
    lines += [f"| {types} | general | {limits} |" for limits, types in _grouped(served, _limits).items()]
    refused = [row for row in rows if not row.adapter]
    lines += [f"| {types} | none | {reason} |" for reason, types in sorted(_grouped(refused, _summary).items())]
    return "\n".join(lines) + "\n"


def counts(version: str, rows: Sequence[Row]) -> str:
    """Format the number of types per adapter."""
    general = sum(row.adapter == "general" for row in rows)
    none = [row for row in rows if not row.adapter]
    unknown = sum(_summary(row) in (_FORMAT, _BUILD) for row in none)
    dedicated = len(rows) - general - len(none)
    eligible = [row for row in rows if row.model_type not in OTHER_KINDS]
    served = sum(bool(row.adapter) for row in eligible)
    return (
        f"Of {len(rows)} registered types of transformers {version}, {dedicated} have a dedicated adapter, {general} "
        f"use the general adapter, {unknown} could not be checked, and {len(none) - unknown} are not supported. "
        f"{len(eligible)} types hold visual tokens in the KV cache of an autoregressive decoder; {served} of these "
        f"({served / len(eligible):.0%}) are supported. The others: {_others(rows)}.\n"
    )


def _others(rows: Sequence[Row]) -> str:
    others = [row for row in rows if row.model_type in OTHER_KINDS]
    return "; ".join(f"{types} ({kind})" for kind, types in
                     _grouped(others, lambda row: OTHER_KINDS[row.model_type]).items())  # fmt: skip


def _outcome(row: Row) -> tuple[str, str]:
    return row.adapter, _limits(row) if row.adapter else _summary(row)


def _limits(row: Row) -> str:
    return ", ".join([LIMITS[each] for each in row.refused] + ([] if row.grid else ["no grid for some items"]))


def _summary(row: Row) -> str:
    """Shorten the reason of an unsupported type; the results file has it in full."""
    _, hidden, reason = row.reason.partition("the stock model rejects a synthetic prompt with ")
    if hidden and "its generate() passes" in reason:
        return "its generate() passes embeddings to its language model, without the placeholder tokens"
    if row.reason.startswith("no synthetic prompt"):
        return _FORMAT
    return _BUILD if row.reason.startswith("no tiny model") else row.reason.replace("|", "\\|")


def _grouped(rows: Sequence[Row], key: Callable[[Row], str]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(f"`{row.model_type}`")
    return {each: ", ".join(types) for each, types in found.items()}
