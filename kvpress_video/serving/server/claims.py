"""Claims on sessions: which server of a folder has one in memory, and how far its clients know it to have come."""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import asdict
from pathlib import Path

from .failures import RequestError, not_written
from .held_files import HeldFile, told
from .journal import log_failure
from .served_session import Progress, ServedSession
from .session_files import session_path

_PATIENCE = 30.0  # seconds for another server to finish with a session
_POLL = 0.05


class Claims:
    """The claims of one server: files next to those of the sessions.

    Attributes:
        server: its name, which its claims tell.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.server = f"server_{uuid.uuid4().hex[:12]}"

    async def take(self, served: ServedSession) -> None:
        """Claim a session, once the server that has it has let go, and read how far it had come.

        Raises:
            RequestError: the other server still has it, or the claim cannot be written.
        """
        path, deadline = self._path(served.id), time.monotonic() + _PATIENCE
        while (claim := _taken(path)) is None:
            if time.monotonic() > deadline:
                raise RequestError(
                    503, "Another server has this session: try again.", code="session_elsewhere", retry_after=1
                )
            await asyncio.sleep(_POLL)
        served.claim, served.reached = claim, _reached(path)

    def tell(self, served: ServedSession) -> None:
        """Write down how far a session has come, before its client is told.

        Raises:
            RequestError: the claim cannot be written; what it stated before may be lost.
        """
        if served.claim is not None and served.reached is not None:
            try:
                served.claim.tell(server=self.server, **asdict(served.reached))
            except OSError as error:
                log_failure(served.id, error)
                raise not_written() from error

    def release(self, served: ServedSession) -> None:
        """Leave a session to other servers."""
        if served.claim is not None:
            served.claim.release()
            served.claim = None

    def delete(self, served: ServedSession) -> None:
        """Delete the claim on a session that is no more."""
        if served.claim is not None:
            served.claim.delete()
            served.claim = None

    def _path(self, name: str) -> Path:
        return session_path(self._folder, name, ".lock")


def claimant(folder: Path, name: str) -> str | None:
    """Return the server that has a session in memory, or last had it; None where none did.

    Raises:
        KeyError: no session is named so.
    """
    server = told(session_path(folder, name, ".lock")).get("server")
    return server if isinstance(server, str) else None


def _taken(path: Path) -> HeldFile | None:
    try:
        return HeldFile.take(path)
    except OSError as error:
        raise not_written() from error


def _reached(path: Path) -> Progress | None:
    facts = told(path)
    try:
        return Progress(facts["frames"], facts["seconds"], facts["turns"])
    except KeyError:
        return None
