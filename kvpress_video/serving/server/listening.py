"""Run the server with uvicorn until a signal ends it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ...errors import UnknownNameError
from .app import make_app
from .journal import log, log_to_stderr
from .settings import ServerSettings
from .state import Server

_HEADER_SECONDS = 20.0
_LONGEST_HEADER = 1 << 15


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that closes connections without a complete request header in time."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start waiting for the first header."""
        super().connection_made(transport)
        self._late = self.loop.call_later(_HEADER_SECONDS, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        if self._late is not None:
            self._late.cancel()
        super().connection_lost(exc)

    def _give_up(self) -> None:
        upgraded = self.transport.get_protocol() is not self  # upgraded to a WebSocket
        if self.cycle is None and not upgraded:
            self.transport.close()


def check_address(host: str, port: int) -> None:
    """Check that an address is free, before a model is loaded.

    Raises:
        UnknownNameError: it is in use, or is none of this machine's.
    """
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as error:
        raise UnknownNameError(
            f"Cannot listen on {host}:{port} ({error.strerror}): choose another --host or --port, or end the server "
            "that uses it."
        ) from error


def configuration(app: Any, settings: ServerSettings) -> uvicorn.Config:
    """Configure uvicorn for an application."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=PatientProtocol,
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        ws_max_size=settings.limits.size,
        ws_max_queue=4,
        h11_max_incomplete_event_size=_LONGEST_HEADER,
        timeout_graceful_shutdown=settings.grace,
    )


class Listener(uvicorn.Server):
    """Listens for a server, and tells it when it begins and stops to."""

    def __init__(self, server: Server, ready: Callable[[str], None]) -> None:
        super().__init__(configuration(make_app(server), server.settings))
        self._server, self._ready = server, ready

    async def startup(self, sockets: Any = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            await self._server.listens(url)
            self._ready(url)

    async def shutdown(self, sockets: Any = None) -> None:
        """Listen no longer; requests in flight are finished."""
        self._server.drain()
        await super().shutdown(sockets)


def listen(server: Server, ready: Callable[[str], None] = lambda url: None) -> None:
    """Serve until SIGINT or SIGTERM; requests in flight are finished, and sessions saved, before it returns.

    Args:
        server: to listen for.
        ready: called with the URL once requests are accepted.
    """
    log_to_stderr()
    log("start", model=server.name, host=server.settings.host, port=server.settings.port, **server.capacity)
    Listener(server, ready).run()
