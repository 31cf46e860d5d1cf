"""Tables of a sweep's store, derived from its records."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .records import ANSWERED_COLUMNS, CELL_COLUMNS, COLUMNS, MEASURED_COLUMNS, ROW_TYPES

APPLICATION_ID = int.from_bytes(b"kvpv", "big")
FORMAT = 1
"""Version of the tables."""


def _same(value: Any) -> Any:
    return value


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class _Kind:
    sql: str
    write: Callable[[Any], Any] = _same
    read: Callable[[Any], Any] = _same


_JSON = _Kind("TEXT NOT NULL", _to_json, json.loads)
_KINDS = {
    "str": _Kind("TEXT NOT NULL"),
    "str | None": _Kind("TEXT"),
    "int": _Kind("INTEGER NOT NULL"),
    "float": _Kind("REAL NOT NULL"),
    "float | None": _Kind("REAL"),
    "bool": _Kind("INTEGER NOT NULL", read=bool),
    "list[int]": _JSON,
    "dict[str, Any]": _JSON,
    "dict[str, str]": _JSON,
}


class Columns:
    """Some columns of a table.

    Attributes:
        names, marks, definitions: the columns in SQL: their names, one placeholder each, and their definitions.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._kinds = {name: _KINDS[ROW_TYPES[name]] for name in names}
        self.names = ", ".join(f'"{name}"' for name in names)
        self.marks = ", ".join("?" * len(names))
        self.definitions = ", ".join(f'"{name}" {kind.sql}' for name, kind in self._kinds.items())

    def __len__(self) -> int:
        return len(self._kinds)

    def of(self, table: str) -> str:
        """Return the names, each qualified by its table."""
        return ", ".join(f'{table}."{name}"' for name in self._kinds)

    def write(self, record: Mapping[str, Any]) -> list[Any]:
        """Convert a record to one SQL value per column."""
        return [kind.write(record[name]) for name, kind in self._kinds.items()]

    def read(self, values: Iterable[Any]) -> dict[str, Any]:
        """Convert SQL values back to a record."""
        pairs = zip(self._kinds.items(), values, strict=True)
        return {name: kind.read(value) for (name, kind), value in pairs}


CELL, ANSWERED, MEASURED = Columns(CELL_COLUMNS), Columns(ANSWERED_COLUMNS), Columns(MEASURED_COLUMNS)

CREATE = (
    "CREATE TABLE plan (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    f"CREATE TABLE cells (id INTEGER PRIMARY KEY, {CELL.definitions}, UNIQUE ({CELL.names}))",
    f"""CREATE TABLE measurements (
        id INTEGER PRIMARY KEY, cell INTEGER NOT NULL REFERENCES cells, clip TEXT NOT NULL, {MEASURED.definitions},
        UNIQUE (cell, clip))""",
    f"""CREATE TABLE answers (
        measurement INTEGER NOT NULL REFERENCES measurements, place INTEGER NOT NULL, {ANSWERED.definitions},
        PRIMARY KEY (measurement, question))""",
    """CREATE TABLE failures (
        cell INTEGER NOT NULL REFERENCES cells, clip TEXT NOT NULL, error TEXT NOT NULL, PRIMARY KEY (cell, clip))""",
    f"""CREATE VIEW rows ({", ".join(f'"{column}"' for column in COLUMNS)}) AS
        SELECT {CELL.of("c")}, m.clip, {ANSWERED.of("a")}, {MEASURED.of("m")}
        FROM cells c JOIN measurements m ON m.cell = c.id JOIN answers a ON a.measurement = m.id
        ORDER BY c.id, m.clip, a.place""",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {FORMAT}",
)
"""Statements that turn an empty file into a store.

The plan's cells are in `cells`, in order, its other keys in `plan`, as JSON. The `place` of an answer is the number of
its question within the clip.
"""
