"""Memory that sessions and requests reserve before they use it: a first-come queue with a limit."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType

from ...utils.formatting import format_bytes
from .failures import RequestError

_WEIGHT = 0.2  # of the newest duration in the average


class Lease:
    """Reserved memory, given back at the end of the context or by `release`.

    Attributes:
        size: bytes.
    """

    def __init__(self, admission: Admission, size: int) -> None:
        self._admission, self.size = admission, size
        self._since = time.monotonic()

    def shrink(self, size: int) -> None:
        """Give back all but `size` bytes, where that is less."""
        freed, self.size = self.size - min(size, self.size), min(size, self.size)
        self._admission.give_back(freed)

    def release(self) -> None:
        """Give everything back; do nothing the second time."""
        if self.size:
            self._admission.note(time.monotonic() - self._since)
            self.shrink(0)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Admission:
    """Gives out a fixed amount of memory; all calls come from one event loop.

    Attributes:
        total: bytes.
        used: bytes given out.
        reclaim: called with the bytes that the first in the queue lacks; may make leases shorter.
    """

    def __init__(self, total: int, queue: int, patience: float = 60.0) -> None:
        """Give out nothing yet.

        Args:
            total: bytes.
            queue: requests that may wait.
            patience: seconds that each of them waits.
        """
        self.total, self.used = total, 0
        self.reclaim: Callable[[int], None] = lambda size: None
        self._queue, self._patience = queue, patience
        self._waiting: deque[tuple[int, asyncio.Future[Lease]]] = deque()
        self._usual = 2.0  # seconds that a lease lasts on average

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    async def reserve(self, size: int) -> Lease:
        """Reserve memory, once those who came before have theirs.

        Raises:
            RequestError: there will never be so much (400), or the queue is full or too slow (429).
        """
        if size > self.total:
            raise RequestError(
                400,
                f"The request may take {format_bytes(size)} of memory, and the server has {format_bytes(self.total)}: "
                "shorten it, or start the server with more (--memory).",
                code="too_large",
            )
        if (lease := self.reserve_now(size)) is not None:
            return lease
        if len(self._waiting) >= self._queue:
            raise self.busy()
        place: tuple[int, asyncio.Future[Lease]] = (size, asyncio.get_running_loop().create_future())
        self._waiting.append(place)
        self.advance()
        try:
            return await asyncio.wait_for(asyncio.shield(place[1]), self._patience)
        except BaseException as error:
            self._leave(place)
            if isinstance(error, asyncio.TimeoutError):
                raise self.busy() from None
            raise

    def reserve_now(self, size: int) -> Lease | None:
        """Reserve memory that is free and that nobody waits for; None where there is too little."""
        return None if self._waiting or size > self.total - self.used else self._given(size)

    def busy(self) -> RequestError:
        """The answer to a request that cannot be served now, with a time at which it may be."""
        seconds = min(600, max(1, math.ceil(self._usual * (1 + len(self._waiting)))))
        return RequestError(
            429, f"The server is busy: try again in {seconds} s.", code="server_busy", retry_after=seconds
        )

    def note(self, seconds: float) -> None:
        """Learn how long leases last."""
        self._usual += _WEIGHT * (seconds - self._usual)

    def give_back(self, size: int) -> None:
        """Take back memory, and give it to those who wait."""
        self.used -= size
        self.advance()

    def _given(self, size: int) -> Lease:
        self.used += size
        return Lease(self, size)

    def advance(self) -> None:
        """Give memory to those who wait, and ask for more where the first of them lacks some."""
        while self._waiting and self._waiting[0][0] <= self.total - self.used:
            size, future = self._waiting.popleft()
            if not future.done():
                future.set_result(self._given(size))
        if self._waiting:
            self.reclaim(self._waiting[0][0] - (self.total - self.used))

    def _leave(self, place: tuple[int, asyncio.Future[Lease]]) -> None:
        """Leave the queue, or give back what was given meanwhile."""
        if place in self._waiting:
            self._waiting.remove(place)
            self.advance()
        elif place[1].done():
            place[1].result().shrink(0)
