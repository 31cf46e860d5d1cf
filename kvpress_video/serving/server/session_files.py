"""Files of detached and saved sessions: the session itself, and a note of what has to be known before it is read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import CacheError
from ...streaming.checkpoint import write_snapshot
from ...streaming.state import Snapshot
from ...utils.files import atomic_write
from .served_session import Progress

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NAME = re.compile(r"(?:sess|save)_[0-9a-f]{32}")


@dataclass(frozen=True)
class SessionNote:
    """What is known of a session in a file.

    Attributes:
        owner: who may read it.
        need: bytes of memory that it takes at the most.
        saved: what the file holds, at the least.
    """

    owner: str
    need: int
    saved: Progress


class SessionFiles:
    """Sessions in one folder, by name. One server at a time uses a folder."""

    def __init__(self, folder: Path) -> None:
        """Use a folder, which is made where it is missing, readable by its owner only.

        What a server that was killed had not finished writing is removed.

        Raises:
            CacheError: another server uses the folder.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder, self._lock = folder, _locked(folder)
        for path in (*folder.glob(".s*.tmp"), *folder.glob("s*.kvv")):
            if path.suffix == ".tmp" or not path.with_suffix(".json").exists():
                path.unlink()

    def close(self) -> None:
        """Leave the folder to another server."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def path(self, name: str) -> Path:
        """Return the path of a session's file.

        Raises:
            KeyError: no session is named so.
        """
        if not _NAME.fullmatch(name):
            raise KeyError(name)
        return self._folder / f"{name}.kvv"

    def write(self, name: str, snapshot: Snapshot, model: Any, note: SessionNote) -> None:
        """Write a session and then its note; both are on the disk when this returns.

        Raises:
            CacheError: the session cannot be written.
            OSError: the note cannot.
        """
        write_snapshot(self.path(name), snapshot, model)
        with atomic_write(self.path(name).with_suffix(".json"), mode=0o600, durable=True) as path:
            path.write_text(json.dumps(asdict(note)))

    def find(self, name: str) -> SessionNote | None:
        """Return the note of a session; None where there is none of this name."""
        try:
            note = json.loads(self.path(name).with_suffix(".json").read_bytes())
            return SessionNote(note["owner"], note["need"], Progress(**note["saved"]))
        except (KeyError, OSError, ValueError, TypeError):
            return None

    def written(self) -> Iterator[str]:
        """Yield the names of sessions that an earlier server has written."""
        for path in sorted(self._folder.glob("sess_*.json")):
            if _NAME.fullmatch(path.stem) and self.path(path.stem).is_file():
                yield path.stem

    @property
    def saved(self) -> int:
        """How many files `save` has written."""
        return sum(1 for _ in self._folder.glob("save_*.json"))

    def forget(self, name: str) -> None:
        """Delete a session's files, if there are any."""
        for path in (self.path(name).with_suffix(".json"), self.path(name)):
            path.unlink(missing_ok=True)


def _locked(folder: Path) -> int | None:
    """Lock a folder for as long as the descriptor is open; None on systems without such locks."""
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise CacheError(f"Another server keeps its sessions in {folder}: give each a folder of its own.") from None
    except OSError:  # some network file systems have no locks
        pass
    return descriptor
