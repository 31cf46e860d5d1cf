"""Write sessions to their files: the model goes on while a copy is written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from ...errors import CacheError, KVPressVideoError
from ...streaming.session import VideoSession
from ...streaming.state import Snapshot
from .failures import not_written
from .journal import log_failure
from .served_session import Progress, ServedSession
from .session_files import SessionFiles, SessionNote
from .worker import Worker

T = TypeVar("T")


class SessionWriter:
    """Writes in a thread of its own, later states later. Every method is called from the event loop."""

    def __init__(self, model: Any, worker: Worker, files: SessionFiles) -> None:
        """Write nothing yet.

        Args:
            model: of the sessions.
            worker: copies a session between its other jobs.
            files: to write to.
        """
        self._model, self._worker, self._files = model, worker, files
        self._thread = ThreadPoolExecutor(1, "session-files")

    async def keep(self, served: ServedSession) -> bool:
        """Write a session to its file, unless that holds all of it; return whether the file holds it now."""

        def changed() -> tuple[Snapshot, Progress] | None:
            session = served.session  # None once it is closed or detached
            return None if session is None or Progress.of(session) == served.saved else _copied(session)

        if served.session is None:
            return True
        if not served.session.savable:
            return False
        try:
            found = await asyncio.wrap_future(self._worker.submit(served.id, changed))
            if found is not None and not served.closed:  # its files are deleted after what is written now
                await self._write(served, served.id, *found)
                served.saved, served.lost = found[1], None
        except (KVPressVideoError, OSError, RuntimeError) as error:
            log_failure(served.id, error)
            return False
        return True

    async def write(self, served: ServedSession, name: str) -> None:
        """Write a session to a file of another name.

        Raises:
            CacheError: no file can hold it.
            RequestError: the folder takes no files.
        """
        copied = await asyncio.wrap_future(self._worker.submit(served.id, lambda: _copied(served.live)))
        try:
            await self._write(served, name, *copied)
        except (CacheError, OSError) as error:
            if not any(isinstance(each, OSError) for each in (error, error.__cause__)):
                raise
            log_failure(name, error)
            raise not_written() from error

    async def forget(self, served: ServedSession) -> None:
        """Delete the file of a session."""
        await self._run(lambda: self._files.forget(served.id))

    def close(self) -> None:
        """Finish what is being written, and leave the files to another server."""
        self._thread.shutdown()
        self._files.close()

    async def _write(self, served: ServedSession, name: str, snapshot: Snapshot, progress: Progress) -> None:
        note = SessionNote(served.owner, served.need, progress)
        await self._run(lambda: self._files.write(name, snapshot, self._model, note))

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


def _copied(session: VideoSession) -> tuple[Snapshot, Progress]:
    return session.snapshot_for_file(), Progress.of(session)
