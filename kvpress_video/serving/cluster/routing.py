"""Which server a request goes to: that which has its session in memory, or the least busy one."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..server.claims import claimant
from ..server.journal import log, log_failure
from ..server.membership import Member, members

_SESSION = re.compile(r"/v1/sessions/(sess_[0-9a-f]{32})(?:/|$)")
_OPENING = "/v1/sessions"
_EVERY = 0.5  # seconds between looks who is there


class Routing:
    """The servers of a folder, and the requests that each of them has.

    Attributes:
        members: servers that are ready.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._requests: Counter[str] = Counter()
        self.members: list[Member] = []

    async def watch(self) -> None:
        """Look who is there, again and again."""
        while True:
            await self.look()
            await asyncio.sleep(_EVERY)

    async def look(self) -> None:
        """Look who is there; if the folder cannot be read, the servers known so far stay."""
        known = {member.name for member in self.members}
        try:
            self.members = await asyncio.to_thread(members, self._folder)
        except OSError as error:  # such as too many open files
            log_failure("look", error)
            return
        present = {member.name for member in self.members}
        for name in sorted(present - known):
            log("joined", server=name)
        for name in sorted(known - present):
            log("left", server=name)

    async def choose(self, path: str, tried: Collection[str]) -> Member | None:
        """Choose a server for a request; None where there is none left.

        A session whose server is gone comes back on one that follows from its name, so that requests which arrive
        together meet there.

        Args:
            path: of the request.
            tried: servers that were out of reach.
        """
        if path == _OPENING or not set(tried) < {member.name for member in self.members}:
            await self.look()
        present = [member for member in self.members if member.name not in tried]
        if (found := _SESSION.match(path)) is not None and present:
            session = found[1]
            server = await asyncio.to_thread(claimant, self._folder, session)
            usual = max(present, key=lambda member: hashlib.sha256(f"{session} {member.name}".encode()).digest())
            return next((member for member in present if member.name == server), usual)
        return min(present, key=lambda member: (self._requests[member.name], member.sessions), default=None)

    @contextmanager
    def counting(self, member: Member) -> Iterator[None]:
        """Count a request of a server for the length of the context."""
        self._requests[member.name] += 1
        try:
            yield
        finally:
            self._requests[member.name] -= 1
