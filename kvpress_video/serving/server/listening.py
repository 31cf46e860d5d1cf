"""Run the server with uvicorn until a signal ends it."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .app import make_app
from .journal import log, log_to_stderr
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


def configuration(server: Server) -> uvicorn.Config:
    """Configure uvicorn."""
    settings = server.settings
    return uvicorn.Config(
        make_app(server),
        host=settings.host,
        port=settings.port,
        http=PatientProtocol,
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


def listen(server: Server) -> None:
    """Serve until SIGINT or SIGTERM; requests in flight are finished, and sessions saved, before it returns."""
    log_to_stderr()
    log("start", model=server.name, host=server.settings.host, port=server.settings.port, **server.capacity)
    uvicorn.Server(configuration(server)).run()
