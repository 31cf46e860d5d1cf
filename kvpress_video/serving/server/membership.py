"""Servers that share a folder of sessions: each tells in a file of the folder where it listens, as long as it does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .held_files import HeldFile, is_held, told

_EVERY = 1.0  # seconds between updates


@dataclass(frozen=True)
class Member:
    """A server that is ready.

    Attributes:
        name: of the server.
        url: where it listens.
        process: its id, on its machine.
        sessions: in its memory.
    """

    name: str
    url: str
    process: int
    sessions: int


def members(folder: Path) -> list[Member]:
    """Return the servers of a folder that are ready, in the order of their names."""
    found = []
    for path in sorted(folder.glob("server_*.lock")):
        facts = told(path) if is_held(path) else {}
        if facts:
            found.append(Member(path.stem, **facts))
    return found


class Membership:
    """One server's file."""

    def __init__(self, folder: Path, name: str, sessions: Callable[[], int]) -> None:
        """Tell nothing yet.

        Args:
            folder: of the sessions.
            name: of the server.
            sessions: counts those in its memory.
        """
        self._path, self._sessions = member_path(folder, name), sessions
        self._file: HeldFile | None = None
        self._url = ""

    async def join(self, url: str) -> None:
        """Be a member from now on.

        Args:
            url: where the server listens.
        """
        while (file := HeldFile.take(self._path)) is None:  # somebody looks whether it is held
            await asyncio.sleep(0.01)
        self._file, self._url = file, url
        self._tell(file)

    async def run(self) -> None:
        """Keep the file up to date until this is cancelled, and leave then."""
        try:
            while self._file is not None:
                self.update()
                await asyncio.sleep(_EVERY)
        finally:
            self.leave()

    def update(self) -> None:
        """State the number of sessions; where the file cannot be written, the last one stays."""
        if self._file is not None:
            with suppress(OSError):
                self._tell(self._file)

    def _tell(self, file: HeldFile) -> None:
        file.tell(url=self._url, process=os.getpid(), sessions=self._sessions())

    def leave(self) -> None:
        """Be a member no longer; do nothing the second time."""
        if self._file is not None:
            self._file.delete()
            self._file = None


def member_path(folder: Path, name: str) -> Path:
    """The path of a server's file."""
    return folder / f"{name}.lock"
