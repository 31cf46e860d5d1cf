"""Sessions of a server: live in memory that was reserved, or detached in a file until they are used again."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ...errors import KVPressVideoError
from ...streaming.session import VideoSession
from .admission import Admission, Lease
from .failures import RequestError
from .journal import log, log_failure
from .memory import MemoryPlan
from .session_files import SessionFiles, SessionNote
from .worker import Worker

T = TypeVar("T")
_LAST_SECONDS = 10.0


@dataclass
class ServedSession:
    """A session and where it is.

    Attributes:
        id: of the session.
        owner: who opened it.
        need: bytes that it takes while it is live.
        session, lease: while it is live.
        users: requests that use it now.
        used: when one last did, in seconds of the monotonic clock.
        turn: held while it is attached or detached.
    """

    id: str
    owner: str
    need: int = 0
    session: VideoSession | None = None
    lease: Lease | None = None
    users: int = 0
    used: float = field(default_factory=time.monotonic)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def live(self) -> VideoSession:
        """The session in memory, where it is while somebody uses it.

        Raises:
            RequestError: another request has closed it.
        """
        if self.session is None:
            raise _unknown()
        return self.session


class Sessions:
    """All sessions of a server. Every method is called from its event loop."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        plan: MemoryPlan,
        admission: Admission,
        worker: Worker,
        files: SessionFiles,
        idle: float,
        most: int,
    ) -> None:
        """Hold the sessions that an earlier server left in the files, detached.

        Args:
            model, processor: of every session.
            plan: the arithmetic of their memory.
            admission: gives it out.
            worker: runs the model.
            files: of sessions that are detached or saved.
            idle: seconds after which an unused session is detached.
            most: sessions at the same time, detached ones included, and saved ones.
        """
        self._model, self._processor, self._plan = model, processor, plan
        self._admission, self._worker, self._files = admission, worker, files
        self._idle, self._most = idle, most
        notes = ((name, files.find(name)) for name in files.detached())
        self._held = {name: ServedSession(name, note.owner, note.need) for name, note in notes if note is not None}
        self._tasks: set[asyncio.Task[None]] = set()
        admission.reclaim = self._reclaim

    @property
    def live(self) -> int:
        """Sessions in memory."""
        return sum(served.session is not None for served in self._held.values())

    @property
    def count(self) -> int:
        """All sessions."""
        return len(self._held)

    def owned(self, owner: str) -> list[ServedSession]:
        """Sessions of an owner."""
        return [served for served in self._held.values() if served.owner == owner]

    async def open(self, owner: str, settings: dict[str, Any]) -> ServedSession:
        """Open an empty session.

        Raises:
            KVPressVideoError: the settings are wrong.
            RequestError: there are too many sessions, or no memory.
        """

        def make() -> VideoSession:
            return VideoSession(self._model, self._processor, **settings)

        return await self._add(owner, make, lambda: self._plan.session(make()))

    async def fork(self, served: ServedSession) -> ServedSession:
        """Copy a session that is in use."""
        return await self._add(served.owner, served.live.fork, lambda: served.need)

    async def load(self, owner: str, saved: str) -> ServedSession:
        """Open a session from a file that `save` wrote for the same owner.

        Raises:
            RequestError: there is none.
        """
        note = self._saved(owner, saved)
        path = self._files.path(saved)
        return await self._add(owner, lambda: VideoSession.load(path, self._model, self._processor), lambda: note.need)

    async def save(self, served: ServedSession) -> str:
        """Write a session that is in use to a file, and return the name to load it by.

        Raises:
            RequestError: there are too many such files.
        """
        if self._files.saved >= self._most:
            raise RequestError(429, "Too many sessions are saved: delete some.", code="too_many_sessions")
        saved = f"save_{uuid.uuid4().hex}"
        await self.run(served, lambda: self._write(served, saved))
        return saved

    def delete(self, owner: str, saved: str) -> None:
        """Delete a file that `save` wrote for the same owner.

        Raises:
            RequestError: there is none.
        """
        self._saved(owner, saved)
        self._files.forget(saved)

    async def close(self, served: ServedSession) -> None:
        """Forget a session that is in use, once its earlier jobs are done, and its file."""
        await self.run(served, lambda: None)
        self._held.pop(served.id, None)
        self._drop(served)
        self._files.forget(served.id)

    async def acquire(self, owner: str, number: str) -> ServedSession:
        """Find a session, and keep it in memory until it is released; a detached one comes back.

        Raises:
            RequestError: there is none, or no memory for it.
        """
        served = self._held.get(number)
        if served is None or served.owner != owner:
            raise _unknown()
        served.users += 1
        try:
            async with served.turn:
                await self._attach(served)
        except BaseException:
            self.release(served)
            raise
        return served

    def release(self, served: ServedSession) -> None:
        """Use a session no longer."""
        served.users -= 1
        served.used = time.monotonic()
        if not served.users:
            self._admission.advance()  # it may leave now for others

    @asynccontextmanager
    async def using(self, owner: str, number: str) -> AsyncIterator[ServedSession]:
        """Acquire a session for the length of the context."""
        served = await self.acquire(owner, number)
        try:
            yield served
        finally:
            self.release(served)

    async def run(self, served: ServedSession, call: Callable[[], T]) -> T:
        """Run a call on a session that is in use, in the worker's thread and in the session's order."""
        done: T = await asyncio.wrap_future(self._worker.submit(served.id, call))
        return done

    async def detach_idle(self) -> None:
        """Detach sessions that were not used for a while, again and again."""
        while True:
            await asyncio.sleep(max(0.05, self._idle / 4))
            now = time.monotonic()
            for served in list(self._held.values()):
                if now - served.used >= self._idle:
                    await self._try_to_detach(served)

    async def end(self) -> None:
        """Write every live session to its file, once the requests that were cancelled have let go of it."""
        deadline = time.monotonic() + _LAST_SECONDS
        while any(served.users for served in self._held.values()) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        for served in list(self._held.values()):
            await self._try_to_detach(served)

    async def _add(self, owner: str, make: Callable[[], VideoSession], need: Callable[[], int]) -> ServedSession:
        if len(self._held) >= self._most:
            raise RequestError(429, "Too many sessions are open: close some.", code="too_many_sessions", retry_after=60)
        served = ServedSession(f"sess_{uuid.uuid4().hex}", owner, users=1)
        self._held[served.id] = served  # counts from now on
        try:
            served.need = await self.run(served, need)
            served.lease = await self._admission.reserve(served.need)
            served.session = await self.run(served, make)
        except BaseException:
            self._held.pop(served.id, None)
            self._drop(served)
            raise
        self.release(served)
        return served

    async def _attach(self, served: ServedSession) -> None:
        if served.session is not None:
            return
        if served.id not in self._held:
            raise _unknown()
        lease = await self._admission.reserve(served.need)
        try:
            path = self._files.path(served.id)
            served.session = await self.run(served, lambda: VideoSession.load(path, self._model, self._processor))
            served.lease = lease
        except BaseException:
            lease.shrink(0)
            raise

    async def _try_to_detach(self, served: ServedSession) -> None:
        """Write a session that nobody uses to its file; where that fails it stays in memory."""
        async with served.turn:
            if served.users or served.session is None or served.id not in self._held:
                return
            try:
                await self.run(served, lambda: self._write(served, served.id))
            except (KVPressVideoError, OSError, RuntimeError) as error:
                log_failure(served.id, error)
                return
            if not served.users:
                self._drop(served)
                log("detached", session=served.id)

    def _reclaim(self, missing: int) -> None:
        """Detach the sessions that were not used for the longest time, until enough memory will be free."""
        idle = [served for served in self._held.values() if served.session is not None and not served.users]
        for served in sorted(idle, key=lambda served: served.used):
            if missing <= 0:
                return
            missing -= served.need
            task = asyncio.get_running_loop().create_task(self._try_to_detach(served))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _drop(self, served: ServedSession) -> None:
        served.session = None
        if served.lease is not None:
            served.lease.shrink(0)
            served.lease = None

    def _saved(self, owner: str, saved: str) -> SessionNote:
        note = self._files.find(saved) if saved.startswith("save_") else None
        if note is None or note.owner != owner:
            raise RequestError(404, "There is no saved session of this name.", param="saved")
        return note

    def _write(self, served: ServedSession, name: str) -> None:
        """Write a session and then its note, in the worker's thread."""
        served.live.save(self._files.path(name))
        self._files.note(name, SessionNote(served.owner, served.need))


def _unknown() -> RequestError:
    return RequestError(404, "There is no session of this name.", code="session_not_found")
