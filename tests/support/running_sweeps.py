"""Progress of a sweep that another process runs."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path


def answered(folder: Path) -> int:
    """Count the cells × clips that have answers."""
    file = folder / "sweep.sqlite"
    if not file.exists():
        return 0
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db:
        try:
            return int(db.execute("SELECT count(DISTINCT clip || method || budget) FROM rows").fetchone()[0])
        except sqlite3.Error:
            return 0
