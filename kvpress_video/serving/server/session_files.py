"""Files of detached and saved sessions, each with a note of its owner and size."""

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
    """Facts about a session in a file.

    Attributes:
        owner: owner of the session.
        need: bytes of memory to reserve for it.
        saved: progress that the file contains at least.
    """

    owner: str
    need: int
    saved: Progress


class SessionFiles:
    """Sessions in one folder, by name. A folder belongs to one server at a time."""

    def __init__(self, folder: Path) -> None:
        """Open a folder, or create it, readable by its owner only.

        Removes files that a killed server did not finish writing.

        Raises:
            CacheError: another server uses the folder.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder, self._lock = folder, _locked(folder)
        for path in (*folder.glob(".s*.tmp"), *folder.glob("s*.kvv")):
            if path.suffix == ".tmp" or not path.with_suffix(".json").exists():
                path.unlink()

    def close(self) -> None:
        """Release the folder for other servers."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def path(self, name: str) -> Path:
        """Return the path of a session's file.

        Raises:
            KeyError: the name is not the name of a session.
        """
        if not _NAME.fullmatch(name):
            raise KeyError(name)
        return self._folder / f"{name}.kvv"

    def write(self, name: str, snapshot: Snapshot, model: Any, note: SessionNote) -> None:
        """Write a session and then its note; both are on the disk when this returns.

        Raises:
            CacheError: the session cannot be written.
            OSError: the note cannot be written.
        """
        write_snapshot(self.path(name), snapshot, model)
        with atomic_write(self.path(name).with_suffix(".json"), mode=0o600, durable=True) as path:
            path.write_text(json.dumps(asdict(note)))

    def find(self, name: str) -> SessionNote | None:
        """Return the note of a session, or None if it does not exist."""
        try:
            note = json.loads(self.path(name).with_suffix(".json").read_bytes())
            return SessionNote(note["owner"], note["need"], Progress(**note["saved"]))
        except (KeyError, OSError, ValueError, TypeError):
            return None

    def written(self) -> Iterator[str]:
        """Yield the names of sessions written by an earlier server."""
        for path in sorted(self._folder.glob("sess_*.json")):
            if _NAME.fullmatch(path.stem) and self.path(path.stem).is_file():
                yield path.stem

    @property
    def saved(self) -> int:
        """Number of files written by `save`."""
        return sum(1 for _ in self._folder.glob("save_*.json"))

    def forget(self, name: str) -> None:
        """Delete a session's files, if there are any."""
        for path in (self.path(name).with_suffix(".json"), self.path(name)):
            path.unlink(missing_ok=True)


def _locked(folder: Path) -> int | None:
    """Lock a folder while the returned descriptor is open; return None on systems without such locks."""
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise CacheError(f"Another server uses the session folder {folder}: give each a separate one.") from None
    except OSError:  # some network file systems have no locks
        pass
    return descriptor
