"""Deliver an answer from the worker's thread to a client, whole or in pieces; cancel it if the client disconnects."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from starlette.requests import Request

from .replies import Reply

_POLL = 0.5  # seconds between checks that the client is connected


class Answering:
    """One answer in progress.

    Attributes:
        reply: the text so far.
    """

    def __init__(
        self, reply: Reply, start: Callable[[], Future[Any]], finished: Callable[[], None] = lambda: None
    ) -> None:
        """Start the answer.

        Args:
            reply: filled by the work.
            start: queues that work.
            finished: called when the work ends or is cancelled.
        """
        loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[str | None] = asyncio.Queue()

        def emit(piece: str | None) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._pieces.put_nowait, piece)

        def end(future: Future[Any]) -> None:
            emit(None)
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(finished)

        self.reply, reply.emit = reply, emit
        self._future = start()
        self._future.add_done_callback(end)

    async def pieces(self) -> AsyncGenerator[str, None]:
        """Yield the pieces of the text; closing the iterator early cancels the answer.

        Raises:
            Exception: that of the work.
        """
        try:
            while (piece := await self._pieces.get()) is not None:
                yield piece
            await self.result()
        finally:
            self._cancel()

    async def whole(self, request: Request) -> Any:
        """Wait for the answer and return the result of the work; if the client disconnects, cancel it and return None.

        Raises:
            Exception: that of the work.
        """
        done = asyncio.wrap_future(self._future)
        done.add_done_callback(lambda future: future.cancelled() or future.exception())  # even if nobody waits
        try:
            while not done.done():
                await asyncio.wait([done], timeout=_POLL)
                if not done.done() and await request.is_disconnected():
                    break
            return await done if done.done() else None
        finally:
            self._cancel()

    async def result(self) -> Any:
        """Return the result of the work, after all pieces."""
        return await asyncio.wrap_future(self._future)

    def _cancel(self) -> None:
        if not self._future.done():
            self.reply.cancelled = True
            self._future.cancel()


def event(data: Any) -> str:
    """Write one server-sent event."""
    return f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n"
