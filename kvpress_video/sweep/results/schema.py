"""The tables of a sweep's store, made from the dataclasses that they hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

from ..cells import Cell
from .records import COLUMNS, Answered, Measured

APPLICATION_ID = int.from_bytes(b"kvpv", "big")
FORMAT = 1
"""Of the tables; older and newer ones are told apart by it."""


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
    """A dataclass as columns of a table.

    Attributes:
        names, marks, definitions: of the columns, as SQL reads them.
    """

    def __init__(self, record: type) -> None:
        self._record: Callable[..., Any] = record
        self._kinds = {field.name: _KINDS[str(field.type)] for field in fields(record)}
        self.names = ", ".join(f'"{name}"' for name in self._kinds)
        self.marks = ", ".join("?" * len(self._kinds))
        self.definitions = ", ".join(f'"{name}" {kind.sql}' for name, kind in self._kinds.items())

    def __len__(self) -> int:
        return len(self._kinds)

    def of(self, table: str) -> str:
        """The names, each with its table."""
        return ", ".join(f'{table}."{name}"' for name in self._kinds)

    def write(self, record: Any) -> list[Any]:
        """One value per column."""
        return [kind.write(getattr(record, name)) for name, kind in self._kinds.items()]

    def read(self, values: Iterable[Any]) -> Any:
        """The record that these values were written from."""
        return self._record(*(kind.read(value) for kind, value in zip(self._kinds.values(), values, strict=True)))


CELL, ANSWERED, MEASURED = Columns(Cell), Columns(Answered), Columns(Measured)

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
"""What makes an empty file a store. The plan's cells are in `cells`, in order; its other keys in `plan`, as JSON. A
question's `place` is its number within the clip."""
