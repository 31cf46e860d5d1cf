"""Small JSON files that one process holds at a time; the operating system lets go of them when the process ends."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_SIZE = 256  # bytes; every version is as long, so that it replaces all of the one before


class HeldFile:
    """A file that this process holds. Others can read what it tells, but not hold it."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor

    @classmethod
    def take(cls, path: Path) -> HeldFile | None:
        """Hold a file, which is made where it is missing, readable by its owner only; None where another process
        holds it.
        """
        while True:
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
            if not lock(descriptor, alone=True):
                os.close(descriptor)
                return None
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return cls(path, descriptor)
            os.close(descriptor)  # it was deleted meanwhile

    def tell(self, **facts: Any) -> None:
        """Replace what the file tells."""
        os.pwrite(self._descriptor, json.dumps(facts).ljust(_SIZE).encode(), 0)

    def release(self) -> None:
        """Hold the file no longer; what it tells stays."""
        os.close(self._descriptor)

    def delete(self) -> None:
        """Delete the file, and hold it no longer."""
        self._path.unlink(missing_ok=True)
        self.release()


def told(path: Path) -> dict[str, Any]:
    """Return what a file tells, whoever holds or held it; nothing where there is none."""
    try:
        facts = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def is_held(path: Path) -> bool:
    """Whether a process holds a file."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not lock(descriptor, alone=False)
    finally:
        os.close(descriptor)


def lock(descriptor: int, alone: bool) -> bool:
    """Lock a file or folder for as long as its descriptor is open; return whether that succeeded.

    Args:
        descriptor: of the file or folder.
        alone: or together with others that want it so. Where a file system has no locks, everybody succeeds.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems have no locks
        pass
    return True
