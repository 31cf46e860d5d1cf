"""Memory reservations of sessions and requests, with a bounded first-come queue."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType

from ...utils.formatting import format_bytes
from .failures import RequestError

_WEIGHT = 0.2  # weight of the newest duration in the average


class Lease:
    """Reserved memory, released at the end of the context or by `release`.

    Attributes:
        size: bytes.
    """

    def __init__(self, admission: Admission, size: int) -> None:
        self._admission, self.size = admission, size
        self._since = time.monotonic()

    def shrink(self, size: int) -> None:
        """Release all but `size` bytes, if that is less than now."""
        freed, self.size = self.size - min(size, self.size), min(size, self.size)
        self._admission.give_back(freed)

    def release(self) -> None:
        """Release all bytes. Calling it again has no effect."""
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
    """Grants leases of a fixed amount of memory; all calls come from one event loop.

    Attributes:
        total: bytes.
        used: bytes leased.
        reclaim: called with the number of bytes that the first request in the queue lacks; may shrink other leases.
    """

    def __init__(self, total: int, queue: int, patience: float = 60.0) -> None:
        """Create it without leases.

        Args:
            total: bytes.
            queue: maximum number of waiting requests.
            patience: seconds that a request waits at most.
        """
        self.total, self.used = total, 0
        self.reclaim: Callable[[int], None] = lambda size: None
        self._queue, self._patience = queue, patience
        self._waiting: deque[tuple[int, asyncio.Future[Lease]]] = deque()
        self._usual = 2.0  # seconds that a lease lasts on average

    @property
    def waiting(self) -> int:
        """Number of requests in the queue."""
        return len(self._waiting)

    async def reserve(self, size: int) -> Lease:
        """Reserve memory, after all earlier requests in the queue.

        Raises:
            RequestError: the size exceeds the total (400), or the queue is full or too slow (429).
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
        """Reserve memory without waiting; return None if too little is free or other requests wait."""
        return None if self._waiting or size > self.total - self.used else self._given(size)

    def busy(self) -> RequestError:
        """Return the error for a request that cannot be served now, with a time to retry after."""
        seconds = min(600, max(1, math.ceil(self._usual * (1 + len(self._waiting)))))
        return RequestError(
            429, f"The server is busy: try again in {seconds} s.", code="server_busy", retry_after=seconds
        )

    def note(self, seconds: float) -> None:
        """Record the duration of a lease."""
        self._usual += _WEIGHT * (seconds - self._usual)

    def give_back(self, size: int) -> None:
        """Free memory, and grant it to waiting requests."""
        self.used -= size
        self.advance()

    def _given(self, size: int) -> Lease:
        self.used += size
        return Lease(self, size)

    def advance(self) -> None:
        """Grant free memory to waiting requests, and reclaim more if the first still lacks some."""
        while self._waiting and self._waiting[0][0] <= self.total - self.used:
            size, future = self._waiting.popleft()
            if not future.done():
                future.set_result(self._given(size))
        if self._waiting:
            self.reclaim(self._waiting[0][0] - (self.total - self.used))

    def _leave(self, place: tuple[int, asyncio.Future[Lease]]) -> None:
        """Leave the queue, or release a lease granted in the meantime."""
        if place in self._waiting:
            self._waiting.remove(place)
            self.advance()
        elif place[1].done():
            place[1].result().shrink(0)
