"""The address of a cluster: an application that answers nothing itself, but relays every request to a server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
from starlette.responses import JSONResponse, Response

from ..server.failures import RequestError
from ..server.guard import Receive, Scope, Send, respond
from ..server.metrics import CONTENT_TYPE
from .gathered_metrics import gather_metrics
from .relay import OutOfReachError, make_client, passed_on, relay
from .routing import Routing
from .sockets import close_with, relay_socket


class Front:
    """An ASGI application. Keys, origins and sizes of requests are checked by the servers."""

    def __init__(self, folder: Path, largest_message: int) -> None:
        """Relay nothing yet.

        Args:
            folder: of the sessions, which names the servers.
            largest_message: of a WebSocket, in bytes.
        """
        self._routing, self._largest = Routing(folder), largest_message
        self._client: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of ASGI."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif scope["path"] == "/health":
            await JSONResponse({"status": "ok"})(scope, receive, send)
        elif scope["path"] == "/ready":
            servers = len(self._routing.members)
            await JSONResponse({"ready": servers > 0, "servers": servers}, 200 if servers else 503)(
                scope, receive, send
            )
        elif scope["path"] == "/metrics" and self._routing.members:
            await self._metrics(scope, receive, send)
        else:
            await self._http(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        async with make_client() as self._client:
            watching = asyncio.create_task(self._routing.watch())
            await send({"type": "lifespan.startup.complete"})
            await receive()
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            tried: set[str] = set()
            while (member := await self._routing.choose(scope["path"], tried)) is not None:
                try:
                    with self._routing.counting(member):
                        return await relay(self._connected, member.url, scope, receive, send)
                except OutOfReachError:
                    tried.add(member.name)
            raise _none_ready()
        except RequestError as error:
            await respond(error, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        tried: set[str] = set()
        while (member := await self._routing.choose(scope["path"], tried)) is not None:
            try:
                with self._routing.counting(member):
                    return await relay_socket(self._connected, member.url, scope, receive, send, self._largest)
            except OutOfReachError:
                tried.add(member.name)
        await close_with(_none_ready(), send, accepted=False)

    async def _metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            page = await gather_metrics(self._connected, self._routing.members, passed_on(scope["headers"]))
        except RequestError as error:
            await respond(error, send)
        else:
            await Response(page, media_type=CONTENT_TYPE)(scope, receive, send)

    @property
    def _connected(self) -> aiohttp.ClientSession:
        assert self._client is not None  # requests come between startup and shutdown
        return self._client


def _none_ready() -> RequestError:
    return RequestError(503, "No server is ready: try again.", code="no_server", retry_after=2)
