"""Tables of a sweep's store, derived from its records."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .records import ANSWERED_COLUMNS, CELL_COLUMNS, COLUMNS, MEASURED_COLUMNS, ROW_TYPES

APPLICATION_ID = int.from_bytes(b"kvpv", "big")
FORMAT = 3
"""Version of the tables; earlier ones are read, and upgraded by a sweep that resumes them."""

_LABELS = {"labels": "'keep'", "label_entries": "'[]'", "label_tokens": "0"}
"""Columns missing in format 1, with their values in SQL: frame labels were ordinary text."""

_BITS = {"quantize": "'none'"}
"""Columns of cells missing in formats 1 and 2, with their values in SQL: nothing was quantised."""


class DamagedValueError(ValueError):
    """A value in a store that no sweep can have written."""


def _same(value: Any) -> Any:
    return value


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def from_json(text: Any) -> Any:
    """Read JSON text.

    Raises:
        DamagedValueError: it is not JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise DamagedValueError(f"{text!r:.80} is not JSON") from error


def _of(*types: type) -> Callable[[Any], Any]:
    """Return a check that passes values of these types."""

    def check(value: Any) -> Any:
        if type(value) not in types:
            raise DamagedValueError(f"{value!r:.80} is not {' or '.join(kind.__name__ for kind in types)}")
        return value

    return check


def _finite(*others: type) -> Callable[[Any], Any]:
    """Return a check that passes finite numbers and values of other types."""
    typed = _of(int, float, *others)

    def check(value: Any) -> Any:
        if typed(value) is not None and not math.isfinite(value):
            raise DamagedValueError(f"{value!r} is not finite")
        return value

    return check


def _count(value: Any) -> Any:
    if _of(int)(value) < 0:
        raise DamagedValueError(f"{value!r:.80} is negative")
    return value


def _counts(text: Any) -> Any:
    return [_count(value) for value in _of(list)(from_json(text))]


def _mapping(text: Any) -> Any:
    return _of(dict)(from_json(text))


@dataclass(frozen=True)
class _Kind:
    """Type of a column: in SQL, and how values are written and read, with a check that they are of the type."""

    sql: str
    read: Callable[[Any], Any]
    write: Callable[[Any], Any] = _same


_KINDS = {
    "str": _Kind("TEXT NOT NULL", _of(str)),
    "str | None": _Kind("TEXT", _of(str, type(None))),
    "int": _Kind("INTEGER NOT NULL", _count),
    "float": _Kind("REAL NOT NULL", _finite()),
    "float | None": _Kind("REAL", _finite(type(None))),
    "bool": _Kind("INTEGER NOT NULL", lambda value: bool(_count(value))),
    "list[int]": _Kind("TEXT NOT NULL", _counts, _to_json),
    "dict[str, Any]": _Kind("TEXT NOT NULL", _mapping, _to_json),
    "dict[str, str]": _Kind("TEXT NOT NULL", _mapping, _to_json),
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
        self.definitions = ", ".join(map(self.definition, names))

    def __len__(self) -> int:
        return len(self._kinds)

    def of(self, table: str, values: Mapping[str, str] | None = None) -> str:
        """Return the names, each qualified by its table; a value in SQL in place of those given one."""
        return ", ".join((values or {}).get(name, f'{table}."{name}"') for name in self._kinds)

    def definition(self, name: str) -> str:
        """Return the definition of one column."""
        return f'"{name}" {self._kinds[name].sql}'

    def write(self, record: Mapping[str, Any]) -> list[Any]:
        """Convert a record to one SQL value per column."""
        return [kind.write(record[name]) for name, kind in self._kinds.items()]

    def read(self, values: Iterable[Any]) -> dict[str, Any]:
        """Convert SQL values back to a record.

        Raises:
            DamagedValueError: a value is not of the type of its column.
        """
        record = {}
        for (name, kind), value in zip(self._kinds.items(), values, strict=True):
            try:
                record[name] = kind.read(value)
            except DamagedValueError as error:
                raise DamagedValueError(f"in the column {name!r} {error}") from error
        return record


CELL, ANSWERED, MEASURED = Columns(CELL_COLUMNS), Columns(ANSWERED_COLUMNS), Columns(MEASURED_COLUMNS)


def _view(what: str, values: Mapping[str, str] | None = None) -> str:
    return f"""CREATE {what} rows ({", ".join(f'"{column}"' for column in COLUMNS)}) AS
        SELECT {CELL.of("c")}, m.clip, {ANSWERED.of("a")}, {MEASURED.of("m", values)}
        FROM cells c JOIN measurements m ON m.cell = c.id JOIN answers a ON a.measurement = m.id
        ORDER BY c.id, m.clip, a.place"""


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
    _view("VIEW"),
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {FORMAT}",
)
"""Statements that turn an empty file into a store.

The plan's cells are in `cells`, in order, its other keys in `plan`, as JSON. The `place` of an answer is the number of
its question within the clip.
"""

_UNQUANTIZED = tuple(column for column in COLUMNS if column not in _BITS)
COLUMNS_BY_FORMAT = {1: tuple(column for column in _UNQUANTIZED if column not in _LABELS), 2: _UNQUANTIZED, 3: COLUMNS}
"""Columns of the view `rows` in each format that is read."""

_LABELLED = f"json_set(value, '$.labels', {_LABELS['labels']})"
_CELLS = f"""SELECT id, {", ".join(f'{_BITS.get(name, "")} "{name}"' for name in CELL_COLUMNS)} FROM main.cells"""

READ_AS_LATEST = {
    1: (
        f"CREATE TEMP VIEW cells AS {_CELLS}",
        _view("TEMP VIEW", _LABELS),
        f"""CREATE TEMP VIEW plan AS
            SELECT rowid AS rowid, key, iif(key = 'setup', {_LABELLED}, value) AS value FROM main.plan""",
    ),
    2: (f"CREATE TEMP VIEW cells AS {_CELLS}", _view("TEMP VIEW")),
}
"""Statements that let a connection read a store of an earlier format as one of the latest."""

_ADD_LABELS = (
    *(f"ALTER TABLE measurements ADD COLUMN {MEASURED.definition(n)} DEFAULT {value}" for n, value in _LABELS.items()),
    f"UPDATE plan SET value = {_LABELLED} WHERE key = 'setup'",
)
_ADD_BITS = (
    "DROP VIEW rows",
    f"CREATE TABLE latest_cells (id INTEGER PRIMARY KEY, {CELL.definitions}, UNIQUE ({CELL.names}))",
    f"INSERT INTO latest_cells {_CELLS}",
    "DROP TABLE cells",
    "ALTER TABLE latest_cells RENAME TO cells",
    _view("VIEW"),
    f"PRAGMA user_version = {FORMAT}",
)

UPGRADE = {1: (*_ADD_LABELS, *_ADD_BITS), 2: _ADD_BITS}
"""Statements that turn a store of an earlier format into one of the latest."""
