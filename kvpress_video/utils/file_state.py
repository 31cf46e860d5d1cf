"""Size, time and a sampled hash of a file, to detect later changes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TypedDict

_BLOCKS, _BLOCK = 16, 2**16
_WHOLE = _BLOCKS * _BLOCK
"""A file up to this size is hashed whole; of a larger one, the same number of evenly spaced blocks is hashed."""


class FileState(TypedDict):
    """The recorded state of a file.

    Attributes:
        size: size in bytes.
        mtime: time of the last write, in nanoseconds.
        sha256: first 16 digits of the hash of its size and sampled blocks.
    """

    size: int
    mtime: int
    sha256: str


def file_state(path: Path) -> FileState:
    """Record the state of a regular file.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        found = path.stat()
        digest = hashlib.sha256(str(found.st_size).encode())
        for number in range(_BLOCKS):
            place = number * _BLOCK
            if found.st_size > _WHOLE:
                place = number * (found.st_size - _BLOCK) // (_BLOCKS - 1)
            file.seek(place)
            digest.update(file.read(_BLOCK))
    return {"size": found.st_size, "mtime": found.st_mtime_ns, "sha256": digest.hexdigest()[:16]}


def same_content(before: FileState, now: FileState) -> bool | None:
    """Return whether two states of a file have the same content; None if it was rewritten and only its samples are
    equal.
    """
    if (before["size"], before["sha256"]) != (now["size"], now["sha256"]):
        return False
    return True if before["mtime"] == now["mtime"] or now["size"] <= _WHOLE else None
