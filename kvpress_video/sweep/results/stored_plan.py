"""The plan that a store was written with: read, compared with that of another sweep, and extended."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import SweepError
from ...utils.file_state import same_content
from ...utils.warnings import warn_caller
from ..cells import Cell, checkpoint_of, suite_of
from .records import Failure, Row
from .schema import CELL, DamagedValueError, from_json

_GROWING = ("cells", "clips", "files")
_REVISION = re.compile(r"\b([0-9a-f]{10})[0-9a-f]{30}\b")


def read_plan(db: sqlite3.Connection) -> dict[str, Any]:
    """Read the plan that a store was written with."""
    written = {key: _part(key, value) for key, value in db.execute("SELECT key, value FROM plan ORDER BY rowid")}
    cells = db.execute(f"SELECT {CELL.names} FROM cells ORDER BY id")
    return {**written, "cells": [CELL.read(values) for values in cells]}


def unfinished(plan: Mapping[str, Any], ran: Iterable[Row | Failure]) -> str:
    """Say how much of a sweep has run; empty if all of it has, and for a tuning, which chooses what it runs.

    Args:
        plan: the plan of the sweep.
        ran: its rows and failures.
    """
    cells = {Cell(**cell) for cell in plan["cells"]}
    clips = plan.get("clips", {})
    planned = {(cell, clip) for cell in cells for clip in clips.get(suite_of(cell.benchmark, cell.seed), ())}
    done = planned & {(each.cell, each.clip) for each in ran}
    if done == planned or "tune" in plan:
        return ""
    return (
        f"Incomplete: {len(done)} of {len(planned)} cells × clips have run; the command of the sweep with --resume "
        "runs the others."
    )


def extend_plan(db: sqlite3.Connection, plan: dict[str, Any]) -> None:
    """Write a plan, or add its new cells and clips to the one already there."""
    written = read_plan(db)
    for key, value in plan.items():
        if key != "cells":
            value = _joined(written.get(key, {}), value) if key in _GROWING else value
            db.execute(
                "INSERT INTO plan (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                (key, json.dumps(value)),
            )
    db.executemany(
        f"INSERT INTO cells ({CELL.names}) VALUES ({CELL.marks}) ON CONFLICT DO NOTHING",
        [CELL.write(vars(Cell(**cell))) for cell in plan.get("cells", ())],
    )


def check_plan(folder: Path, asked: Mapping[str, Any], resume: bool, db: sqlite3.Connection) -> None:
    """Check that a sweep may continue in the store of another.

    Args:
        folder: folder of the store, for errors.
        asked: the plan of the sweep.
        resume: whether it asks to resume.
        db: the store.

    Raises:
        SweepError: there are answers and it does not ask to resume, it is another sweep, or files have changed.
    """
    found, (answers,) = read_plan(db), db.execute("SELECT count(*) FROM answers").fetchone()
    if answers and not resume:
        raise SweepError(
            f"{folder} already holds {answers} answers: pass --resume to complete it, or choose another folder."
        )
    there, here = (_flat({key: plan[key] for key in plan if key not in _GROWING}) for plan in (found, asked))
    changed = [
        f"{key} is {_shown(there.get(key))} there and {_shown(here.get(key))} here"
        for key in dict.fromkeys((*there, *here))
        if there.get(key) != here.get(key)
    ]
    before, now = (_flat(plan.get("clips", {})) for plan in (found, asked))
    other = [clip for clip in now if before.get(clip, now[clip]) != now[clip]]
    if other:
        changed.append(f"{len(other)} clips have other questions, {other[0]} first")
    if changed:
        raise SweepError(
            f"{folder} holds another sweep: {'; '.join(changed)}. Choose another folder, or run that sweep."
        )
    _check_files(folder, found.get("files", {}), asked.get("files", {}), db)


def _check_files(folder: Path, found: Mapping[str, Any], asked: Mapping[str, Any], db: sqlite3.Connection) -> None:
    """Check that the videos and checkpoints which answered are still the same."""
    changed: list[str] = []
    written: list[str] = []
    for group, name in _files_in_use(db, asked):
        before, now = found.get(group, {}).get(name), asked[group][name]
        same = True if before is None else same_content(before, now)
        if not same:
            (written if same is None else changed).append(f"{name} of {group}")
    if changed:
        raise SweepError(
            f"{len(changed)} files have changed since answers in {folder} were made with them, {changed[0]} "
            "first: put the earlier ones back, or run the sweep in another folder."
        )
    if written:
        warn_caller(
            f"{len(written)} files were written again since answers in {folder} were made with them, "
            f"{written[0]} first. Size and samples are the same; if the rest may not be, run the sweep in another "
            "folder."
        )


def _files_in_use(db: sqlite3.Connection, files: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield group and name of the files that answers in the store depend on."""
    measured = "FROM measurements m JOIN cells c ON c.id = m.cell"
    for benchmark, seed, clip in db.execute(f"SELECT DISTINCT c.benchmark, c.seed, m.clip {measured}"):
        if clip in files.get(suite_of(benchmark, seed), {}):
            yield suite_of(benchmark, seed), clip
    for (model,) in db.execute(f"SELECT DISTINCT c.model {measured}"):
        yield from ((checkpoint_of(model), name) for name in files.get(checkpoint_of(model), {}))


def _part(key: str, text: str) -> Any:
    """Read a part of a plan."""
    value = from_json(text)
    nested = value.values() if key in _GROWING and isinstance(value, dict) else ()
    if key in (*_GROWING, "setup") and not all(isinstance(each, dict) for each in (value, *nested)):
        raise DamagedValueError(f"the plan's {key} are {value!r:.80}")
    return value


def _joined(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Merge two mappings of mappings."""
    return {**old, **{key: {**old.get(key, {}), **value} for key, value in new.items()}}


def _shown(value: str | None) -> str:
    """Shorten the hash of a revision as git does."""
    return "not set" if value is None else _REVISION.sub(r"\1", value)


def _flat(value: Any, name: str = "") -> dict[str, str]:
    """Flatten nested mappings to the `repr` of each leaf, by its path."""
    if not isinstance(value, dict):
        return {name: repr(value)}
    nested = (_flat(inner, f"{name}.{key}" if name else key) for key, inner in value.items())
    return {path: leaf for leaves in nested for path, leaf in leaves.items()}
