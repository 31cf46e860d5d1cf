"""Sessions of a server: live in reserved memory, or detached to a file until their next use."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from ...errors import KVPressVideoError
from ...streaming.session import VideoSession
from ...streaming.state import Snapshot
from .admission import Admission
from .failures import RequestError
from .journal import log, log_failure
from .memory import MemoryPlan
from .served_session import Progress, ServedSession, unknown_session
from .session_files import SessionFiles, SessionNote
from .worker import Worker

T = TypeVar("T")
_LAST_SECONDS = 10.0


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
        """Open the sessions that an earlier server left in the files, detached.

        Args:
            model, processor: those of every session.
            plan: computes their memory.
            admission: reserves it.
            worker: runs the model.
            files: files of detached and saved sessions.
            idle: seconds after which an unused session is detached.
            most: maximum number of open sessions, detached ones included, and of saved ones.
        """
        self._model, self._processor, self._plan = model, processor, plan
        self._admission, self._worker, self._files = admission, worker, files
        self._idle, self._most = idle, most
        left = {name: note for name in files.written() if (note := files.find(name))}
        self._held = {name: ServedSession(name, note.owner, note.need, saved=note.saved) for name, note in left.items()}
        self._tasks: set[asyncio.Task[None]] = set()
        self._writer = ThreadPoolExecutor(1, "session-files")  # a single thread writes states in order
        admission.reclaim = self._reclaim

    @property
    def live(self) -> int:
        """Number of sessions in memory."""
        return sum(served.session is not None for served in self._held.values())

    @property
    def count(self) -> int:
        """Number of sessions."""
        return len(self._held)

    def owned(self, owner: str) -> list[ServedSession]:
        """Return the sessions of an owner."""
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
        """Copy a session in use."""
        return await self._add(served.owner, served.live.fork, lambda: served.need)

    async def load(self, owner: str, saved: str) -> ServedSession:
        """Open a session from a file that `save` wrote for the same owner.

        Raises:
            RequestError: there is no such file.
        """
        note = self._saved(owner, saved)
        path = self._files.path(saved)
        return await self._add(owner, lambda: VideoSession.load(path, self._model, self._processor), lambda: note.need)

    async def save(self, served: ServedSession) -> str:
        """Write a session in use to a file, and return the name to load it by.

        Raises:
            RequestError: there are too many such files.
        """
        if self._files.saved >= self._most:
            raise RequestError(429, "Too many sessions are saved: delete some.", code="too_many_sessions")
        saved = f"save_{uuid.uuid4().hex}"
        await self._write(served, saved, *await self.run(served, lambda: _copied(served.live)))
        return saved

    def delete(self, owner: str, saved: str) -> None:
        """Delete a file that `save` wrote for the same owner.

        Raises:
            RequestError: there is no such file.
        """
        self._saved(owner, saved)
        self._files.forget(saved)

    async def close(self, served: ServedSession) -> None:
        """Close a session in use after its earlier jobs, and delete its file."""
        async with served.turn:
            await self.run(served, lambda: None)
            self._held.pop(served.id, None)
            self._drop(served)
            await asyncio.get_running_loop().run_in_executor(self._writer, self._files.forget, served.id)

    async def acquire(self, owner: str, number: str) -> ServedSession:
        """Find a session and hold it in memory until it is released; restore a detached one.

        Raises:
            RequestError: the session does not exist, or there is no memory for it.
        """
        served = self._held.get(number)
        if served is None or served.owner != owner:
            raise unknown_session()
        served.users += 1
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
        if not served.users:
            self._admission.advance()  # it may be detached for others now

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
            await asyncio.sleep(max(0.05, self._idle / 4))
            now = time.monotonic()
            for served in list(self._held.values()):
                if now - served.used >= self._idle:
                    await self._try_to_detach(served)

    async def save_changed(self, every: float) -> None:
        """Save changed sessions periodically, forever.

        Args:
            every: seconds between rounds.
        """
        while True:
            await asyncio.sleep(every)
            for served in list(self._held.values()):
                await self._keep(served)

    async def end(self) -> None:
        """Save every changed session, after cancelled requests have released it."""
        deadline = time.monotonic() + _LAST_SECONDS
        while any(served.users for served in self._held.values()) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        kept = [await self._keep(served) for served in list(self._held.values())]
        log("saved", sessions=sum(kept), failed=len(kept) - sum(kept))

    def close_files(self) -> None:
        """Finish pending writes, and release the files for other servers."""
        self._writer.shutdown()
        self._files.close()

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
            raise unknown_session()
        lease = await self._admission.reserve(served.need)
        try:
            path = self._files.path(served.id)
            served.session = await self.run(served, lambda: VideoSession.load(path, self._model, self._processor))
            served.lease, served.saved = lease, Progress.of(served.session)
        except BaseException:
            lease.shrink(0)
            raise

    async def _try_to_detach(self, served: ServedSession) -> None:
        """Detach a session that no request uses; if writing fails, it stays in memory."""
        async with served.turn:
            if served.users or served.session is None or served.id not in self._held:
                return
            if await self._keep(served) and not served.users:
                self._drop(served)
                log("detached", session=served.id)

    async def _keep(self, served: ServedSession) -> bool:
        """Save a session unless its file is up to date; return whether the file is now complete.

        The worker's thread makes a copy; it and the users of the session continue while the copy is written.
        """

        def changed() -> tuple[Snapshot, Progress] | None:
            session = served.session  # None if it is closed or detached
            return None if session is None or Progress.of(session) == served.saved else _copied(session)

        if served.session is None:
            return True
        try:
            found = await self.run(served, changed)
            if found is not None and served.id in self._held:  # not closed: its files are deleted after this is written
                await self._write(served, served.id, *found)
                served.saved = found[1]
        except (KVPressVideoError, OSError, RuntimeError) as error:
            log_failure(served.id, error)
            return False
        return True

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

    async def _write(self, served: ServedSession, name: str, snapshot: Snapshot, progress: Progress) -> None:
        """Write a session to a file, outside the event loop and the worker's thread."""
        note = SessionNote(served.owner, served.need, progress)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._writer, self._files.write, name, snapshot, self._model, note)


def _copied(session: VideoSession) -> tuple[Snapshot, Progress]:
    return session.snapshot_for_file(), Progress.of(session)
