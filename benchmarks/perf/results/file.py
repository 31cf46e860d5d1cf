"""Results files: one per machine and scale, a row per figure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kvpress_video.errors import BenchmarkError
from kvpress_video.sweep.run.environment import device_name
from kvpress_video.utils.files import check_target

from ...publishing.provenance import provenance, write_result
from ..setup.scales import Bed
from .measurement import Figure

_SAME = ("device", "machine", "scale", "versions")


def head_of(bed: Bed) -> dict[str, Any]:
    """Return the head of a results file: machine, device, scale and versions."""
    made = provenance()
    del made["revision"], made["command"]
    return {**made, "device": device_name(bed.device), "scale": bed.name, "what": bed.scale.what}


def read(file: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Read the head and the rows of a results file.

    Raises:
        BenchmarkError: the file is not a results file.
    """
    try:
        found = json.loads(file.read_text())
        rows = found.pop("rows")
        _ = [row["benchmark"] for row in rows]
        missing = [name for name in _SAME if name not in found]
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise BenchmarkError(f"{file} holds no figures of `kvpress-video bench`: {error}.") from error
    if missing:
        raise BenchmarkError(f"{file} holds no figures of `kvpress-video bench`: it lacks {', '.join(missing)}.")
    return found, rows


def check(file: Path, head: Mapping[str, Any]) -> None:
    """Check that figures of this machine may be added to a file.

    Raises:
        BenchmarkError: the file cannot be written, or holds figures of another machine, scale or versions.
    """
    try:
        check_target(file)
    except OSError as error:
        raise BenchmarkError(f"Cannot write {file}: {error.strerror}.") from error
    if not file.exists():
        return
    known, _ = read(file)
    other = [name for name in _SAME if known[name] != head[name]]
    if other:
        said = "; ".join(f"{name} {known[name]!r} there, {head[name]!r} here" for name in other)
        raise BenchmarkError(f"{file} was measured elsewhere ({said}): give another --out, or delete it.")


def keep(file: Path, head: Mapping[str, Any], benchmark: str, figures: Sequence[Figure]) -> None:
    """Replace the figures of a benchmark in a file, and keep those of the others."""
    rows = read(file)[1] if file.exists() else []
    revision = provenance()["revision"]
    rows = [row for row in rows if row["benchmark"] != benchmark]
    rows += [{**figure.record(), "revision": revision} for figure in figures]
    write_result(file, head, rows=rows)
