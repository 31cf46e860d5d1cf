"""Live streams that the server reads into sessions, each in a separate task and process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

from ...video.live_stream import LiveStream
from .addresses import split_url
from .failures import RequestError, as_request_error
from .journal import log, log_failure
from .media import MediaLimits
from .served_session import ServedSession
from .sessions import Sessions

State = Literal["running", "ended", "failed", "stopped"]
Push = Callable[[ServedSession, Any, list[float]], Awaitable[Any]]
_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}


@dataclass
class LiveSource:
    """The live stream of one session.

    Attributes:
        host: host of its URL; the URL itself may contain a password and is not disclosed.
        stream: the stream being read.
        state: state of the stream.
        frames: number of pushed frames.
        seconds: time of the latest frame since the first; None before the first.
        error: reason of a failure.
        task: task that reads it.
    """

    host: str
    stream: LiveStream
    state: State = "running"
    frames: int = 0
    seconds: float | None = None
    error: str | None = None
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    def told(self) -> dict[str, Any]:
        """Describe the stream to its owner."""
        return {name: getattr(self, name) for name in ("host", "state", "frames", "seconds", "error")}


class LiveSources:
    """The live streams of all sessions. Every method is called from the server's event loop."""

    def __init__(self, sessions: Sessions, limits: MediaLimits, hosts: Collection[str], push: Push) -> None:
        """Create it without streams.

        Args:
            sessions: sessions to read streams into.
            limits: limits on frames and processes.
            hosts: allowed hosts, as `"host"` or `"host:port"`.
            push: appends frames to a session in use.
        """
        self._sessions, self._limits, self._hosts, self._push = sessions, limits, frozenset(hosts), push
        self._held: dict[str, LiveSource] = {}
        self._threads = ThreadPoolExecutor(limits.sources, "live-streams")  # a stalled stream blocks its thread

    async def start(self, owner: str, number: str, url: str, fps: float) -> LiveSource:
        """Read a stream into a session until it ends or is stopped.

        Raises:
            RequestError: the host is not allowed, the session does not exist or already reads a stream, or too many
                streams are read.
            VideoError: `fps` is not a number above zero.
        """
        host, limits = self._host(url), self._limits
        async with self._sessions.using(owner, number):
            if self._running(number):
                raise RequestError(409, "The session already reads a stream: stop it first.", code="source_running")
            if sum(map(self._running, self._held)) >= limits.sources:
                raise RequestError(
                    429, f"The server reads {limits.sources} streams at most.", code="too_many_sources", retry_after=60
                )
            stream = LiveStream(url, fps, max_pixels=limits.kept, memory=limits.memory, patience=limits.fetching)
            source = self._held[number] = LiveSource(host, stream)
            source.task = asyncio.get_running_loop().create_task(self._pull(source, owner, number, fps))
        return source

    def find(self, number: str) -> LiveSource:
        """Return the latest stream of a session.

        Raises:
            RequestError: it never had one.
        """
        if number not in self._held:
            raise RequestError(404, "The session reads no stream.", code="source_not_found")
        return self._held[number]

    async def stop(self, number: str) -> LiveSource:
        """End the stream of a session, and keep the session open.

        Raises:
            RequestError: it never had one.
        """
        source = self.find(number)
        if source.state == "running":
            source.state = "stopped"
            source.stream.kill()
        if source.task is not None:
            await asyncio.wait([source.task])
        return source

    async def forget(self, number: str) -> None:
        """End the stream, if any, of a session that was closed."""
        if number in self._held:
            await self.stop(number)
            self._held.pop(number, None)

    async def end(self) -> None:
        """End all streams."""
        await asyncio.gather(*(self.stop(number) for number in self._held))
        self._threads.shutdown()

    def _running(self, number: str) -> bool:
        return number in self._held and self._held[number].state == "running"

    def _host(self, url: str) -> str:
        """Return the host of a URL, if the server may read streams from it.

        FFmpeg opens connections itself, also to targets of playlists, so only hosts named by the operator are trusted.
        """
        parts = split_url(url)
        port = parts.port or _PORTS.get(parts.scheme.lower())
        host = (parts.hostname or "").rstrip(".")
        if port is None or self._hosts.isdisjoint((host, f"{host}:{port}")):
            raise RequestError(
                400,
                "Live streams are rtsp, rtsps, http or https URLs of hosts that the server allows (--allow-source).",
                code="invalid_url",
            )
        return host

    async def _pull(self, source: LiveSource, owner: str, number: str, fps: float) -> None:
        offset: float | None = None
        loop = asyncio.get_running_loop()
        log("source", session=number, state="running")
        try:
            with source.stream:
                while (found := await loop.run_in_executor(self._threads, source.stream.frame)) is not None:
                    time, frame = found
                    async with self._sessions.using(owner, number) as served:
                        if offset is None:
                            last = served.live.stats.seconds
                            offset = 0.0 if last is None else last + 1 / fps
                        await self._push(served, frame[None], [time + offset])
                    source.frames, source.seconds = source.frames + 1, time
                source.state = "ended"
        except Exception as error:
            if source.state == "running":  # a stopped stream ends with an error as well
                told = as_request_error(error)
                source.state, source.error = "failed", told.message
                if told.status == 500:
                    log_failure(number, error)
        log("source", session=number, state=source.state, frames=source.frames)
