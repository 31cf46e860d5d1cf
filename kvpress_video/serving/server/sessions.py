"""Sessions of a server: live in reserved memory, or detached to a file until their next use."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from ...errors import KVPressVideoError
from ...streaming.session import VideoSession
from .admission import Admission
from .claims import Claims
from .failures import RequestError
from .journal import log
from .memory import MemoryPlan
from .served_session import Lost, Progress, ServedSession, unknown_session
from .session_files import SessionFiles, SessionNote
from .session_writer import SessionWriter
from .settings import ServerSettings
from .worker import Worker

T = TypeVar("T")
_LAST_SECONDS = 10.0
_POLL = 0.05


class Sessions:
    """All sessions of a server: those in memory or in use, and what files hold. All calls come from its event loop.

    Attributes:
        claims: of the server, on the sessions that it has in memory.
        opened: called when a session has been opened.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        plan: MemoryPlan,
        admission: Admission,
        worker: Worker,
        files: SessionFiles,
        settings: ServerSettings,
    ) -> None:
        """Hold none yet; files may hold those of an earlier server.

        Args:
            model, processor: of every session.
            plan, admission: the arithmetic of their memory, and what gives it out.
            worker: runs the model.
            files: of sessions that are detached or saved.
            settings: when an unused session is detached, and how many there may be. Where there is a folder for them,
                sessions are written as soon as they are opened.
        """
        self._model, self._processor, self._plan = model, processor, plan
        self._admission, self._worker, self._files = admission, worker, files
        self._writer = SessionWriter(model, worker, files)
        self._settings = settings
        self.claims = Claims(files.folder)
        self.opened: Callable[[], None] = lambda: None
        self._held: dict[str, ServedSession] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        admission.reclaim = self._reclaim

    @property
    def live(self) -> int:
        """Number of sessions in memory."""
        return sum(served.session is not None for served in self._held.values())

    @property
    def count(self) -> int:
        """All sessions, those in files too."""
        return len(self._held.keys() | set(self._files.written()))

    def owned(self, owner: str) -> list[ServedSession]:
        """Sessions of an owner."""
        written = (self._found(name) for name in self._files.written() if name not in self._held)
        return [served for served in (*self._held.values(), *filter(None, written)) if served.owner == owner]

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
        """Copy a session in use."""
        return await self._add(served.owner, served.live.fork, lambda: served.need)

    async def load(self, owner: str, saved: str) -> ServedSession:
        """Open a session from a file that `save` wrote for the same owner.

        Raises:
            RequestError: there is no such file.
        """
        note = self._saved(owner, saved)
        return await self._add(owner, lambda: self._read(saved, note.need), lambda: note.need)

    async def save(self, served: ServedSession) -> str:
        """Write a session in use to a file, and return the name to load it by.

        Raises:
            RequestError: there are too many such files.
        """
        if self._files.saved >= self._settings.most_sessions:
            raise RequestError(429, "Too many sessions are saved: delete some.", code="too_many_sessions")
        saved = f"save_{uuid.uuid4().hex}"
        await self._writer.write(served, saved)
        return saved

    def delete(self, owner: str, saved: str) -> None:
        """Delete a file that `save` wrote for the same owner.

        Raises:
            RequestError: there is no such file.
        """
        self._saved(owner, saved)
        self._files.forget(saved)

    async def close(self, owner: str, number: str) -> None:
        """Close a session after its earlier jobs, and delete its file, which is not read: it may be damaged.

        Raises:
            RequestError: there is none, or another server has it.
        """
        served = self._entered(owner, number)
        try:
            async with served.turn:
                if served.session is None:
                    await self._claim(served)
                else:
                    await self.run(served, lambda: None)
                served.closed = True
                try:
                    await self._writer.forget(served)
                    self.claims.delete(served)
                finally:
                    self._leave(served)
        finally:
            self.release(served)

    async def acquire(self, owner: str, number: str) -> ServedSession:
        """Find a session and hold it in memory until it is released; restore a detached one.

        Raises:
            RequestError: there is none, no memory for it, or another server has it.
        """
        served = self._entered(owner, number)
        try:
            async with served.turn:
                await self._attach(served)
        except BaseException:
            self.release(served)
            raise
        return served

    def release(self, served: ServedSession) -> None:
        """Release a session."""
        served.users -= 1
        served.used = time.monotonic()
        with suppress(RequestError):  # the session goes on, and its claim states less
            self.claims.tell(served)
        if not served.users:
            if served.session is None:
                self._held.pop(served.id, None)
            self._admission.advance()  # it may leave now for others

    @asynccontextmanager
    async def using(self, owner: str, number: str) -> AsyncIterator[ServedSession]:
        """Hold a session for the duration of the context."""
        served = await self.acquire(owner, number)
        try:
            yield served
        finally:
            self.release(served)

    async def run(self, served: ServedSession, call: Callable[[], T]) -> T:
        """Run a call on a session in use, in the worker's thread and in the session's order."""
        done: T = await asyncio.wrap_future(self._worker.submit(served.id, call))
        return done

    async def detach_idle(self) -> None:
        """Detach idle sessions periodically, forever."""
        while True:
            await asyncio.sleep(max(0.05, self._settings.idle / 4))
            now = time.monotonic()
            for served in list(self._held.values()):
                if now - served.used >= self._settings.idle:
                    await self._try_to_detach(served)

    async def save_changed(self, every: float) -> None:
        """Write sessions that have changed to their files, every so many seconds."""
        while True:
            await asyncio.sleep(every)
            for served in list(self._held.values()):
                await self._writer.keep(served)

    async def end(self) -> None:
        """Save every changed session, after cancelled requests have released it."""
        deadline = time.monotonic() + _LAST_SECONDS
        while any(served.users for served in self._held.values()) and time.monotonic() < deadline:
            await asyncio.sleep(_POLL)
        kept = [await self._writer.keep(served) for served in list(self._held.values())]
        log("saved", sessions=sum(kept), failed=len(kept) - sum(kept))

    async def hand_over(self) -> None:
        """Detach every session as soon as nobody uses it, for other servers of the folder."""
        tried: set[str] = set()
        while waiting := [each for each in self._held.values() if each.session is not None and each.id not in tried]:
            for served in (each for each in waiting if not each.users):
                tried.add(served.id)
                await self._try_to_detach(served)
            await asyncio.sleep(_POLL)

    def close_files(self) -> None:
        """Finish what is being written, and leave the files to another server."""
        self._writer.close()
        for served in self._held.values():
            self.claims.release(served)

    async def _add(self, owner: str, make: Callable[[], VideoSession], need: Callable[[], int]) -> ServedSession:
        if self.count >= self._settings.most_sessions:
            raise RequestError(429, "Too many sessions are open: close some.", code="too_many_sessions", retry_after=60)
        served = ServedSession(f"sess_{uuid.uuid4().hex}", owner, users=1)
        self._held[served.id] = served  # counts from now on
        try:
            served.need = await self.run(served, need)
            served.lease = await self._admission.reserve(served.need)
            served.session = await self.run(served, make)
            await self.claims.take(served)
            await self.run(served, served.note)
            self.claims.tell(served)  # others find it by its claim
            if self._settings.sessions is not None:
                await self._writer.keep(served)  # from now on it outlives the server
        except BaseException:
            self.claims.delete(served)
            self._leave(served)
            raise
        self.opened()
        self.release(served)
        return served

    def _read(self, name: str, need: int) -> VideoSession:
        """Read a session's file, for which memory is reserved; an error does not tell clients where it is."""
        path = self._files.path(name)
        try:
            session = VideoSession.load(path, self._model, self._processor)
        except KVPressVideoError as error:
            raise _unreadable(str(error).replace(str(path), "The session's file")) from error
        if self._plan.session(session) > need:
            raise _unreadable("The session's file is not that of its note: it takes more memory.")
        return session

    def _found(self, name: str) -> ServedSession | None:
        """Find a session in the files."""
        note = self._files.find(name) if name.startswith("sess_") else None
        return None if note is None else ServedSession(name, note.owner, note.need, saved=note.saved)

    def _entered(self, owner: str, number: str) -> ServedSession:
        """Find a session of an owner, and count a request that uses it until it is released."""
        served = self._held.get(number) or self._found(number)
        if served is None or served.owner != owner:
            raise unknown_session()
        self._held[number] = served
        served.users += 1
        return served

    async def _claim(self, served: ServedSession) -> None:
        """Claim a session that is not in memory."""
        if served.closed:
            raise unknown_session()
        await self.claims.take(served)
        if self._files.find(served.id) is None:  # another server has closed it
            self.claims.delete(served)
            raise unknown_session()

    async def _attach(self, served: ServedSession) -> None:
        if served.session is not None:
            return
        await self._claim(served)
        try:
            served.lease = await self._admission.reserve(served.need)
            session = await self.run(served, lambda: self._read(served.id, served.need))
        except BaseException:
            self._free(served)
            raise
        served.session, served.saved = session, Progress.of(session)
        served.reached = served.reached or served.saved
        served.lost = Lost.between(served.saved, served.reached)
        self.claims.tell(served)

    async def _try_to_detach(self, served: ServedSession) -> None:
        """Detach a session that no request uses; if writing fails, it stays in memory."""
        async with served.turn:
            if served.users or served.session is None:
                return
            if await self._writer.keep(served) and not served.users:
                self._leave(served)
                log("detached", session=served.id)

    def _reclaim(self, missing: int) -> None:
        """Detach the least recently used sessions until enough memory will be free."""
        idle = [served for served in self._held.values() if served.session is not None and not served.users]
        for served in sorted(idle, key=lambda served: served.used):
            if missing <= 0:
                return
            missing -= served.need
            task = asyncio.get_running_loop().create_task(self._try_to_detach(served))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _leave(self, served: ServedSession) -> None:
        self._held.pop(served.id, None)
        self._free(served)

    def _free(self, served: ServedSession) -> None:
        self.claims.release(served)
        served.session = None
        if served.lease is not None:
            served.lease.shrink(0)
            served.lease = None

    def _saved(self, owner: str, saved: str) -> SessionNote:
        note = self._files.find(saved) if saved.startswith("save_") else None
        if note is None or note.owner != owner:
            raise RequestError(404, "There is no saved session of this name.", param="saved")
        return note


def _unreadable(reason: str) -> RequestError:
    return RequestError(409, f"{reason} Close the session, and open another.", code="session_unreadable")
