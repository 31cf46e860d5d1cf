"""Files of detached and saved sessions: the session itself, and a note of what has to be known before it is read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ...utils.files import atomic_write

_NAME = re.compile(r"(?:sess|save)_[0-9a-f]{32}")


@dataclass(frozen=True)
class SessionNote:
    """What is known of a session in a file.

    Attributes:
        owner: who may read it.
        need: bytes of memory that it takes at the most.
    """

    owner: str
    need: int


class SessionFiles:
    """Sessions in one folder, by name."""

    def __init__(self, folder: Path) -> None:
        """Use a folder, which is made where it is missing, readable by its owner only."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder

    def path(self, name: str) -> Path:
        """Return the path of a session's file.

        Raises:
            KeyError: no session is named so.
        """
        if not _NAME.fullmatch(name):
            raise KeyError(name)
        return self._folder / f"{name}.kvv"

    def note(self, name: str, note: SessionNote) -> None:
        """Write the note of a session whose file is complete."""
        with atomic_write(self.path(name).with_suffix(".json"), mode=0o600, durable=True) as path:
            path.write_text(json.dumps(asdict(note)))

    def find(self, name: str) -> SessionNote | None:
        """Return the note of a session; None where there is none of this name."""
        try:
            return SessionNote(**json.loads(self.path(name).with_suffix(".json").read_bytes()))
        except (KeyError, OSError, ValueError, TypeError):
            return None

    def detached(self) -> Iterator[str]:
        """Yield the names of sessions that were detached or written when a server ended."""
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
