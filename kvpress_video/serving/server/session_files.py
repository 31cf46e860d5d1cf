"""Files of detached and saved sessions: the session itself, a note of what has to be known before it is read, and a
claim, held by the server that has the session in memory.
"""

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
from .held_files import lock
from .served_session import Progress

_NAME = re.compile(r"(?:sess|save)_[0-9a-f]{32}")
_LEFT = re.compile(rf"\.{_NAME.pattern}\..*\.tmp|{_NAME.pattern}\.(?:kvv|lock)|server_\w+\.lock")
"""What a killed server may leave behind. Other files of the folder are not the server's to delete."""


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
    """Sessions in one folder, by name. One server at a time uses a folder, or several that share it.

    Attributes:
        folder: of the files.
    """

    def __init__(self, folder: Path, shared: bool = False) -> None:
        """Open a folder, or create it, readable by its owner only.

        A server that does not share it removes files that a killed server did not finish writing.

        Raises:
            CacheError: another server uses the folder, and one of the two does not share it.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = folder
        self._descriptor: int | None = None
        if os.name == "posix":
            self._descriptor = _locked(folder, shared)
        if not shared:
            self._clean()

    def close(self) -> None:
        """Release the folder for other servers."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def path(self, name: str) -> Path:
        """Return the path of a session's file.

        Raises:
            KeyError: the name is not the name of a session.
        """
        return session_path(self.folder, name, ".kvv")

    def write(self, name: str, snapshot: Snapshot, model: Any, note: SessionNote) -> None:
        """Write a session and then its note; both are on the disk when this returns.

        Raises:
            CacheError: the session cannot be written.
            OSError: the note cannot be written.
        """
        write_snapshot(self.path(name), snapshot, model)
        target = self.path(name).with_suffix(".json")
        try:
            with atomic_write(target, mode=0o600, durable=True) as path:
                path.write_text(json.dumps(asdict(note)))
        except OSError:
            if not target.exists():  # nobody finds a session without a note
                self.forget(name)
            raise

    def find(self, name: str) -> SessionNote | None:
        """Return the note of a session, or None if it does not exist."""
        try:
            note = json.loads(self.path(name).with_suffix(".json").read_bytes())
            return SessionNote(note["owner"], int(note["need"]), Progress(**note["saved"]))
        except (KeyError, OSError, ValueError, TypeError, RecursionError):
            return None

    def written(self) -> Iterator[str]:
        """Yield the names of sessions written by an earlier server."""
        for path in sorted(self.folder.glob("sess_*.json")):
            if _NAME.fullmatch(path.stem) and self.path(path.stem).is_file():
                yield path.stem

    @property
    def saved(self) -> int:
        """Number of files written by `save`."""
        return sum(1 for _ in self.folder.glob("save_*.json"))

    def forget(self, name: str) -> None:
        """Delete a session's files, if there are any, except its claim."""
        for path in (self.path(name).with_suffix(".json"), self.path(name)):
            path.unlink(missing_ok=True)

    def _clean(self) -> None:
        for path in self.folder.iterdir():
            ours = _LEFT.fullmatch(path.name) is not None and path.is_file()
            if ours and (path.suffix == ".tmp" or not path.with_suffix(".json").exists()):
                path.unlink()


def session_path(folder: Path, name: str, suffix: str) -> Path:
    """Return the path of one of a session's files: `.kvv` the session, `.json` its note, `.lock` its claim.

    Raises:
        KeyError: no session is named so.
    """
    if not _NAME.fullmatch(name):
        raise KeyError(name)
    return folder / f"{name}{suffix}"


def _locked(folder: Path, shared: bool) -> int:
    descriptor = os.open(folder, os.O_RDONLY)
    if not lock(descriptor, alone=not shared):
        os.close(descriptor)
        raise CacheError(f"Another server uses the session folder {folder}: give each a separate one.")
    return descriptor
