"""Results on disk: rows as they come, so that an interrupted sweep keeps what it finished and can be taken up again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import KVPressVideoError
from ..files import replacing
from .rows import Failure, Row
from .tasks import Cell

ROWS, FAILURES, PLAN = "rows.jsonl", "failures.jsonl", "sweep.json"


class Results:
    """The rows of one sweep in one folder.

    Attributes:
        folder: where they lie.
        rows: every finished row, in order.
        failures: every failure of this run.
    """

    def __init__(self, folder: str | Path, plan: Mapping[str, Any], questions: Mapping[str, int]) -> None:
        """Start a sweep, or take up the one that the folder holds. What failed then is tried again.

        Args:
            folder: made if it is missing.
            plan: everything that decides what the rows are.
            questions: how many questions each clip has, by the clip's name.

        Raises:
            KVPressVideoError: the folder holds the rows of another plan.
        """
        self.folder = Path(folder)
        self.rows: list[Row] = []
        self.failures: list[Failure] = []
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_plan(json.loads(json.dumps(dict(plan))))
        self._take_up(questions)
        (self.folder / FAILURES).unlink(missing_ok=True)

    def finished(self) -> set[tuple[Cell, str]]:
        """Cells and clips that have their rows."""
        return {(row.cell, row.clip) for row in self.rows}

    def add(self, rows: Sequence[Row]) -> None:
        """Keep all rows of one cell on one clip, in one write."""
        self._append(ROWS, [row.as_dict() for row in rows])
        self.rows.extend(rows)

    def fail(self, failure: Failure) -> None:
        """Keep a failure."""
        self._append(FAILURES, [failure.as_dict()])
        self.failures.append(failure)

    def write(self, name: str, text: str) -> Path:
        """Write a file of the folder, all of it or nothing."""
        return write_atomically(self.folder / name, text)

    def _append(self, name: str, records: Iterable[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        with open(self.folder / name, "ab", buffering=0) as file:
            file.write(text.encode())

    def _check_plan(self, plan: dict[str, Any]) -> None:
        file = self.folder / PLAN
        if file.exists():
            found = json.loads(file.read_text())
            changed = sorted(key for key in plan.keys() | found.keys() if plan.get(key) != found.get(key))
            if changed:
                raise KVPressVideoError(
                    f"{self.folder} holds another sweep, which differs in {', '.join(changed)}: "
                    "choose another folder, or remove this one."
                )
        else:
            write_atomically(file, json.dumps(plan, indent=1) + "\n")

    def _take_up(self, questions: Mapping[str, int]) -> None:
        """Read the rows that are there, and drop from the file what an interruption left incomplete."""
        file = self.folder / ROWS
        lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
        found = [_row(line) for line in lines]
        counts = Counter((row.cell, row.clip) for row in found if row)
        whole = [row is not None and counts[row.cell, row.clip] == questions.get(row.clip) for row in found]
        self.rows = [row for row, keep in zip(found, whole, strict=True) if row and keep]
        if not all(whole):
            kept = b"".join(line for line, keep in zip(lines, whole, strict=True) if keep)
            write_atomically(file, kept.decode())


def read_rows(file: str | Path) -> list[Row]:
    """The rows of a `rows.jsonl`; a last line that was cut off is left out."""
    return [row for line in Path(file).read_bytes().splitlines() if (row := _row(line))]


def _row(line: bytes) -> Row | None:
    try:
        return Row.from_dict(json.loads(line))
    except (ValueError, KeyError):
        return None


def write_atomically(file: Path, text: str) -> Path:
    """Write a text file so that a reader sees the old content or the new one, never a part."""
    with replacing(file) as scratch:
        scratch.write_text(text)
    return file
