"""The store of a sweep: one SQLite file, written in transactions, that several processes may share."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any

from ...errors import SweepError
from ...utils.files import check_target, irregular_kind, make_folder
from ..cells import Cell
from .records import Answered, Done, Failure, Measured, Row
from .schema import (
    ANSWERED,
    APPLICATION_ID,
    CELL,
    COLUMNS_BY_FORMAT,
    CREATE,
    FORMAT,
    MEASURED,
    READ_AS_LATEST,
    UPGRADE,
    DamagedValueError,
)
from .stored_plan import check_plan, extend_plan, read_plan

FILE = "sweep.sqlite"
BUSY_TIMEOUT = 60.0
"""Seconds to wait for another writer."""

_HINTS = {
    "not a database": "It was not written by a sweep: choose another folder, or move it away.",
    "malformed": "It is damaged: restore a copy, or remove it and run the sweep again.",
    "locked": f"Another process has kept it locked for {BUSY_TIMEOUT:.0f} seconds: wait for it to end.",
    "disk is full": "Make room, then run the sweep again with --resume.",
    "unable to open": "Check that the file and its folder may be read and written.",
}
_CELL_TO_CLIP = len(CELL) + 1
_TO_ANSWER = _CELL_TO_CLIP + len(ANSWERED)


class Store:
    """The plan, rows and failures of a sweep.

    Several processes of one machine may write to it at once. Its view `rows` has the columns `records.COLUMNS`, for SQL
    from other programs; lists and dictionaries in it are JSON text.

    Attributes:
        folder: folder of the sweep.
        file: file of the database.
    """

    def __init__(self, folder: str | Path, plan: Mapping[str, Any] | None = None, *, resume: bool = False) -> None:
        """Open a store: for reading, or with a plan to start or resume a sweep.

        Args:
            folder: folder of the sweep; created with a plan.
            plan: everything that determines the rows, in plain types; `"cells"` is the list of `asdict(Cell)`.
            resume: whether the store may already hold answers. New cells, clips and files are added to its plan;
                everything else must be equal, and so must the files that answers were made with.

        Raises:
            SweepError: there is no store to read, or it is damaged, not a store, or of another version; with a plan, it
                holds answers and `resume` is not given, or it belongs to a different sweep.
        """
        self.folder = Path(folder)
        self.file = self.folder / FILE
        with self._explained():
            self._db = self._to_read() if plan is None else self._to_write(json.loads(json.dumps(dict(plan))), resume)

    @classmethod
    def check(cls, folder: str | Path, plan: Mapping[str, Any], *, resume: bool = False) -> None:
        """Check that a plan may be run in a folder, as opening it does, and change nothing.

        Args:
            folder: folder of the sweep; it need not exist.
            plan: as in `__init__`; its clips and files may be missing.
            resume: as in `__init__`.

        Raises:
            SweepError: as in `__init__`.
        """
        file = Path(folder) / FILE
        try:
            if kind := irregular_kind(file):
                raise SweepError(f"{file} is {kind} and no sweep: choose another folder, or move it away.")
            check_target(file)
        except OSError as error:
            raise SweepError(f"Cannot write a sweep to {folder}: {error.strerror}. Choose another folder.") from error
        if file.exists() and file.stat().st_size:
            with cls(folder) as store, store._explained():
                check_plan(store.folder, json.loads(json.dumps(dict(plan))), resume, store._db)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; everything is already written."""
        self._db.close()

    @property
    def plan(self) -> dict[str, Any]:
        """The plan, with all cells and clips ever asked for, in that order."""
        with self._explained():
            return read_plan(self._db)

    def finished(self) -> set[tuple[Cell, str]]:
        """Return the cells and clips (by name) that have answers."""
        return {(cell, clip) for cell, clip in self._pairs("m.clip", "measurements")}

    def failures(self) -> list[Failure]:
        """Return the failures without answers since, in the order of the plan, then of the clips' names."""
        return [Failure(cell, clip, error) for cell, clip, error in self._pairs("m.clip, m.error", "failures")]

    def rows(self) -> list[Row]:
        """Return all rows, in the order of the plan, then of the clips' names, then of the questions."""
        with self._explained():
            found = self._db.execute("SELECT * FROM rows").fetchall()
            rows = []
            for (*cell_values, clip), group in groupby(found, key=lambda values: values[:_CELL_TO_CLIP]):
                answers = list(group)
                cell = Cell(**CELL.read(cell_values))
                measured = _measured(cell, answers[0][_TO_ANSWER:])
                rows += [Row(cell, clip, measured, _answered(values[_CELL_TO_CLIP:_TO_ANSWER])) for values in answers]
            return rows

    def add(self, done: Done) -> None:
        """Store all answers of a cell on a clip in one transaction, unless the store already has them.

        Raises:
            SweepError: the cell is not in the plan, or the file cannot be written.
        """
        with self._explained(), _transaction(self._db) as db:
            cell = self._id(done.cell)
            added = db.execute(
                f"INSERT INTO measurements (cell, clip, {MEASURED.names}) VALUES (?, ?, {MEASURED.marks}) "
                "ON CONFLICT (cell, clip) DO NOTHING",
                (cell, done.clip, *MEASURED.write(done.measured.as_dict())),
            )
            if added.rowcount:
                db.executemany(
                    f"INSERT INTO answers (measurement, place, {ANSWERED.names}) VALUES (?, ?, {ANSWERED.marks})",
                    [(added.lastrowid, place, *ANSWERED.write(vars(a))) for place, a in enumerate(done.answers)],
                )
                db.execute("DELETE FROM failures WHERE cell = ? AND clip = ?", (cell, done.clip))

    def fail(self, failure: Failure) -> None:
        """Store a failure in place of an earlier one, unless there are answers.

        Raises:
            SweepError: the cell is not in the plan, or the file cannot be written.
        """
        with self._explained(), _transaction(self._db) as db:
            where = (self._id(failure.cell), failure.clip)
            if not db.execute("SELECT 1 FROM measurements WHERE cell = ? AND clip = ?", where).fetchone():
                encodable = failure.error.encode(errors="backslashreplace").decode()
                db.execute("INSERT OR REPLACE INTO failures VALUES (?, ?, ?)", (*where, encodable))

    def _id(self, cell: Cell) -> int:
        found = self._db.execute(f"SELECT id FROM cells WHERE ({CELL.names}) = ({CELL.marks})", astuple(cell))
        for (number,) in found:
            return number
        raise SweepError(f"{cell!r} is not a cell of the sweep in {self.folder}.")

    def _pairs(self, columns: str, table: str) -> list[tuple[Any, ...]]:
        with self._explained():
            found = self._db.execute(
                f"SELECT {CELL.of('c')}, {columns} FROM {table} m JOIN cells c ON c.id = m.cell ORDER BY c.id, m.clip"
            ).fetchall()
            return [(Cell(**CELL.read(values[: len(CELL)])), *map(_text, values[len(CELL) :])) for values in found]

    def _to_read(self) -> sqlite3.Connection:
        if not self.file.is_file():
            raise SweepError(f"No sweep in {self.folder}: it has no {FILE}. Give the output folder of a sweep.")
        at_rest = not os.access(self.folder, os.W_OK) and not Path(f"{self.file}-wal").exists()
        with _opened(self.file, "immutable=1" if at_rest else "mode=rw") as db:  # rw: recovers after a killed writer
            if _is_empty(db):
                raise SweepError(f"{self.file} is empty: its sweep never started. Run the sweep first.")
            _run(db, READ_AS_LATEST.get(self._checked_format(db), ()))
            db.execute("PRAGMA query_only = ON")
            return db

    def _to_write(self, plan: dict[str, Any], resume: bool) -> sqlite3.Connection:
        try:
            make_folder(self.folder)
        except OSError as error:
            raise SweepError(f"Cannot make the folder {self.folder}: {error.strerror}.") from error
        with _opened(self.file, "mode=rwc") as db:
            with _transaction(db):
                if _is_empty(db):
                    _run(db, CREATE)
                else:
                    _run(db, UPGRADE.get(self._checked_format(db), ()))
                    check_plan(self.folder, plan, resume, db)
                extend_plan(db, plan)
            with suppress(sqlite3.OperationalError):  # without a write-ahead log readers and writers take turns
                db.execute("PRAGMA journal_mode = WAL").fetchone()
            return db

    def _checked_format(self, db: sqlite3.Connection) -> int:
        (application,), (version,) = (db.execute(f"PRAGMA {n}").fetchone() for n in ("application_id", "user_version"))
        if application != APPLICATION_ID:
            raise SweepError(f"{self.file} was not written by a sweep: choose another folder, or move it away.")
        if version > FORMAT:
            raise SweepError(
                f"{self.file} was written by a newer kvpress-video (format {version}, this one reads {FORMAT}): "
                "upgrade kvpress-video."
            )
        (damage,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if damage != "ok":
            raise sqlite3.DatabaseError("malformed: " + " ".join(damage.split()))
        if tuple(column[1] for column in db.execute("PRAGMA table_info(rows)")) != COLUMNS_BY_FORMAT.get(version):
            raise SweepError(
                f"{self.file} was written by another version of kvpress-video, with other columns: "
                "read it with that version, or run the sweep again in another folder."
            )
        return int(version)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except DamagedValueError as error:
            raise SweepError(f"Cannot use {self.file}: {error}. {_HINTS['malformed']}") from error
        except UnicodeEncodeError as error:
            raise SweepError(
                f"Cannot write {error.object!r:.80} to {self.file}: it is not UTF-8. Rename it."
            ) from error
        except sqlite3.Error as error:
            hints = (hint for words, hint in _HINTS.items() if words in str(error))
            raise SweepError(" ".join((f"Cannot use {self.file}: {error}.", *hints))) from error


@contextmanager
def _opened(file: Path, mode: str) -> Iterator[sqlite3.Connection]:
    """Yield a connection; close it only on an error."""
    db = sqlite3.connect(f"{file.absolute().as_uri()}?{mode}", uri=True, timeout=BUSY_TIMEOUT, isolation_level=None)
    try:
        yield db
    except BaseException:
        db.close()
        raise


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    try:
        db.execute("BEGIN IMMEDIATE")
        yield db
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _run(db: sqlite3.Connection, statements: Sequence[str]) -> None:
    for statement in statements:
        db.execute(statement)


def _is_empty(db: sqlite3.Connection) -> bool:
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return application == tables == 0


def _measured(cell: Cell, values: Sequence[Any]) -> Measured:
    measured = Measured.from_columns(cell, MEASURED.read(values))
    if not measured.report.entries:
        raise DamagedValueError("in the column 'entries' the list is empty")
    if not 0 < measured.report.ratio <= 1:
        raise DamagedValueError(f"in the column 'ratio' {measured.report.ratio!r} is not a ratio above 0")
    return measured


def _answered(values: Sequence[Any]) -> Answered:
    answered = Answered(**ANSWERED.read(values))
    if answered.score is not None and not 0 <= answered.score <= 1:
        raise DamagedValueError(f"in the column 'score' {answered.score!r} is not between 0 and 1")
    return answered


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise DamagedValueError(f"{value!r:.80} is neither the name of a clip nor an error")
    return value
