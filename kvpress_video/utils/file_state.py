"""Size, time and a sampled hash of a file, by which a later change is noticed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TypedDict

_BLOCKS, _BLOCK = 16, 2**16
_WHOLE = _BLOCKS * _BLOCK
"""A file up to the size of all blocks is hashed whole, of a larger one as many blocks at equal distances."""


class FileState(TypedDict):
    """What is recorded of a file.

    Attributes:
        size: size in bytes.
        mtime: when it was last written, in nanoseconds.
        sha256: of its size and sampled blocks, the first 16 digits.
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
    """Compare two states of a file: None if it was written again and only its samples are known to be equal."""
    if (before["size"], before["sha256"]) != (now["size"], now["sha256"]):
        return False
    return True if before["mtime"] == now["mtime"] or now["size"] <= _WHOLE else None
