"""Pass a request on to a server, and its answer back as it comes: HTTP, and WebSockets in `sockets`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import aiohttp
from yarl import URL

from ..server.answering import event
from ..server.failures import RequestError
from ..server.guard import Message, Receive, Scope, Send

_SECONDS_TO_CONNECT = 5.0
_PIECE = 1 << 16
_ONE_HOP = {
    "connection",
    "expect",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
_ADDED_BY_US = {"date", "server"}
_ADDED_BY_CLIENT = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")

Headers = Iterable[tuple[bytes, bytes]]


class OutOfReachError(Exception):
    """No connection could be made; nothing was sent, and another server may be asked."""


def lost() -> RequestError:
    """What a client is told whose server ended before its answer did."""
    return RequestError(
        503,
        "The server that worked on this request has ended: ask again. A session goes on from its last save.",
        code="server_lost",
        retry_after=1,
    )


def make_client() -> aiohttp.ClientSession:
    """Make a client that uses each connection once, so that a connection which fails was not used before."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_SECONDS_TO_CONNECT),
        skip_auto_headers=_ADDED_BY_CLIENT,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def address(server: str, scope: Scope) -> URL:
    """The address of a request at a server: a target such as `@host/` is a path there, and leads nowhere else."""
    path = scope.get("raw_path", scope["path"].encode()).decode("latin-1")
    target = path if path.startswith("/") else f"/{path}"
    query = scope["query_string"].decode("latin-1")
    return URL(f"{server}{target}?{query}" if query else f"{server}{target}", encoded=True)


def passed_on(headers: Headers, without: Iterable[str] = ()) -> list[tuple[str, str]]:
    """The headers that are not for one connection only."""
    kept = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
    return [(name, value) for name, value in kept if name.lower() not in _ONE_HOP.union(without)]


async def relay(client: aiohttp.ClientSession, server: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Relay one request; a client that leaves ends it at the server too.

    Raises:
        OutOfReachError: the server could not be reached.
        RequestError: it ended before it answered.
        ClientError: it ended within an answer that cannot state so.
    """
    body = _Body(scope, receive)
    answering = asyncio.create_task(_answer(client, server, scope, body, send))
    leaving = asyncio.create_task(body.left())
    try:
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
        if not answering.done():
            answering.cancel()
        await asyncio.gather(leaving, answering, return_exceptions=True)
    if not answering.cancelled() and not body.client_left:
        answering.result()


async def _answer(client: aiohttp.ClientSession, server: str, scope: Scope, body: _Body, send: Send) -> None:
    streamed = started = False
    try:
        async with client.request(
            scope["method"],
            address(server, scope),
            headers=passed_on(scope["headers"]),
            data=body.pieces() if body.expected else None,
            allow_redirects=False,
        ) as answer:
            streamed = answer.content_type == "text/event-stream"
            headers = [
                (name, value)
                for name, value in answer.raw_headers
                if name.decode("latin-1").lower() not in _ONE_HOP | _ADDED_BY_US
            ]
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            started = True
            async for piece in answer.content.iter_chunked(_PIECE):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise OutOfReachError from error
    except (aiohttp.ClientError, ConnectionError) as error:
        if not started:
            raise lost() from error
        if not streamed:
            raise
        await send({"type": "http.response.body", "body": event(lost().body).encode(), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


class _Body:
    """The body of a request, read as the server takes it.

    Attributes:
        expected: whether there is one.
        client_left: before the answer was complete.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        names = {name.lower() for name, _ in scope["headers"]}
        self.expected = bool(names & {b"content-length", b"transfer-encoding"})
        self.client_left = False
        self._receive, self._read = receive, asyncio.Event()
        if not self.expected:
            self._read.set()

    async def pieces(self) -> AsyncIterator[bytes]:
        """Read the body."""
        yield b""  # sends the header: the server's time limit for the body begins, and it may refuse the request
        more = True
        while more:
            message: Message = await self._receive()
            if message["type"] == "http.disconnect":
                self.client_left = True
                raise ConnectionResetError
            more = bool(message.get("more_body"))
            yield message.get("body", b"")
        self._read.set()

    async def left(self) -> None:
        """Wait until the client has left, once the body is read."""
        await self._read.wait()
        message: Any = {"type": None}
        while message["type"] != "http.disconnect":
            message = await self._receive()
        self.client_left = True
