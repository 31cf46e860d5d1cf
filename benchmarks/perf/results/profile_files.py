"""Profiles of hot paths before and after a change: their files, and their text on the page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kvpress_video.errors import BenchmarkError

from ...publishing.provenance import write_result
from .tables import number, ruled, shortened

SIDES = ("before", "after")
_NONE = (
    "No hot path was profiled yet: `python -m kvpress_video.benchmarks.perf.results.profile PATH before --out FILE`.\n"
)


def read(file: Path) -> dict[str, Any]:
    """Read a profile: `path`, `why`, `machine`, and one or both of `before` and `after`.

    Each side has `revision`, `seconds` and `table`: rows of operation, calls, milliseconds and share of all.

    Raises:
        BenchmarkError: the file holds no profile.
    """
    try:
        found: dict[str, Any] = json.loads(file.read_text())
        sides = [found[side] for side in SIDES if side in found]
        whole = {"path", "why", "machine"} <= found.keys() and all(_whole(side) for side in sides)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BenchmarkError(f"{file} holds no profile of a hot path ({error}): delete it.") from error
    if not whole:
        raise BenchmarkError(f"{file} holds no profile of a hot path: delete it.")
    return found


def _whole(side: Mapping[str, Any]) -> bool:
    return {"revision", "seconds", "table"} <= side.keys() and all(len(row) == 4 for row in side["table"])


def keep(file: Path, path: str, why: str | None, machine: str, side: str, measured: Mapping[str, Any]) -> None:
    """Write one side of a profile, and keep the other.

    Args:
        file: may hold the other side.
        path: the profiled path, in words.
        why: finding and change, in words; None keeps the file's.
        machine: the machine, in words.
        side: `"before"` or `"after"`.
        measured: `revision`, `seconds`, `table`.

    Raises:
        BenchmarkError: the file holds another path, or comes from another machine.
    """
    known: dict[str, Any] = read(file) if file.exists() else {"path": path, "why": "", "machine": machine}
    for name, here in (("path", path), ("machine", machine)):
        if known[name] != here:
            raise BenchmarkError(
                f"{file} is of {name} {known[name]!r}, not {here!r}: give another --out, or delete it."
            )
    known["why"] = known["why"] if why is None else why
    known[side] = dict(measured)
    write_result(file, {name: known[name] for name in ("path", "why", "machine", *SIDES) if name in known})


def profiles(folder: Path) -> str:
    """Text of the page about the profiles in a folder.

    Raises:
        BenchmarkError: a file in it holds no profile.
    """
    return "\n".join(_said(read(file)) for file in sorted(folder.glob("*.json"))) or _NONE


def _said(profile: Mapping[str, Any]) -> str:
    sides = {side: profile[side] for side in SIDES if side in profile}
    parts = [
        f"### {profile['path']}\n",
        *([f"{profile['why']}\n"] if profile["why"] else []),
        f"{profile['machine']}.\n",
    ]
    if len(sides) == 2:
        before, after = (sides[side]["seconds"] for side in SIDES)
        parts.append(f"{_ms(before)} before, {_ms(after)} after: {before / after:.2f} times as fast.\n")
    else:
        missing = next(side for side in SIDES if side not in sides)
        parts.append(f"Not measured {missing} the change.\n")
    for side, found in sides.items():
        rows = [
            [f"{side} (revision {shortened(str(found['revision']))}, {_ms(found['seconds'])})", "calls", "ms", "share"]
        ]
        rows += [[f"`{name}`", f"{calls:,}", number(ms), f"{share:.1f} %"] for name, calls, ms, share in found["table"]]
        parts.append(ruled(rows, right=range(1, 4)))
    return "\n".join(parts)


def _ms(seconds: float) -> str:
    return f"{number(1e3 * seconds)} ms"
