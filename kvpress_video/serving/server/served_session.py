"""One session of a server: its location, and the progress saved in its file."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from ...streaming.session import VideoSession
from .admission import Lease
from .failures import RequestError
from .held_files import HeldFile


@dataclass(frozen=True)
class Progress:
    """Progress of a session.

    Attributes:
        frames: number of pushed frames.
        seconds: time of the last frame; None before the first.
        turns: number of kept turns, including evicted ones.
    """

    frames: int
    seconds: float | None
    turns: int

    @classmethod
    def of(cls, session: VideoSession) -> Progress:
        """Return the progress of a session."""
        stats = session.stats
        return cls(stats.frames, stats.seconds, stats.evicted_turns + len(session.turns))


@dataclass(frozen=True)
class Lost:
    """What a client was told of, and a server that was killed had not saved.

    Attributes:
        frames: how many.
        after: time of the last frame that was saved, in seconds; None where none was.
        until: time of the last frame that was lost; equal to `after` where none was.
        turns: questions answered since the save.
    """

    frames: int
    after: float | None
    until: float | None
    turns: int

    @classmethod
    def between(cls, saved: Progress, reached: Progress) -> Lost | None:
        """Compare what a file holds with how far the session had come; None where the file holds all."""
        frames, turns = max(0, reached.frames - saved.frames), max(0, reached.turns - saved.turns)
        until = reached.seconds if frames else saved.seconds
        return cls(frames, saved.seconds, until, turns) if frames or turns else None


@dataclass
class ServedSession:
    """A session, in memory or detached.

    Attributes:
        id: id of the session.
        owner: owner of the session.
        need: bytes reserved for it while it is in memory.
        session, lease, claim: set while it is in memory.
        saved: progress in its file; None without a file.
        reached: progress that clients were told of, as its claim states.
        lost: progress that clients were told of and that was lost, until the session is saved again.
        closed: whether a client has closed it.
        users: number of requests that use it now.
        used: time of its last use, in seconds of the monotonic clock.
        turn: lock held while it is attached, written or closed.
    """

    id: str
    owner: str
    need: int = 0
    session: VideoSession | None = None
    lease: Lease | None = None
    claim: HeldFile | None = None
    saved: Progress | None = None
    reached: Progress | None = None
    lost: Lost | None = None
    closed: bool = False
    users: int = 0
    used: float = field(default_factory=time.monotonic)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def live(self) -> VideoSession:
        """The session, which is in memory while a request uses it.

        Raises:
            RequestError: another request has closed it.
        """
        if self.session is None:
            raise unknown_session()
        return self.session

    def note(self) -> None:
        """Note how far the session has come, in the worker's thread."""
        self.reached = Progress.of(self.live)


def unknown_session() -> RequestError:
    """Return the error for an unknown session."""
    return RequestError(404, "There is no session of this name.", code="session_not_found")
