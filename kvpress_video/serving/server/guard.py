"""Outermost ASGI layer: checks clients and request sizes before anything reads a request."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from .failures import RequestError, as_request_error
from .journal import Stopwatch, log, log_failure
from .metrics import Metrics
from .settings import ServerSettings, is_loopback

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PAGE = "/page/"
"""Path prefix of the page's files; the page itself is at `/`."""
PUBLIC = ("/", "/health", "/ready")
_BODIES_AT_ONCE = 4
LOCAL = "local"
"""Owner of sessions that clients open without a key."""


class Guard:
    """ASGI middleware: request ids, keys, origins, limits on bodies, error responses, and one log line per request."""

    def __init__(self, app: Any, settings: ServerSettings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._digests = tuple(map(_digest, settings.keys))
        self._bodies = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        number, watch, status = f"req_{uuid.uuid4().hex}", Stopwatch(), 0
        scope.setdefault("state", {})["request"] = number

        async def answered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", number.encode())]
            await send(message)

        try:
            self._admit(scope)
            length = self._length(scope)
            self._bodies += length
            try:
                await self._app(scope, self._timely(receive), answered)
            finally:
                self._bodies -= length
        except Exception as error:
            told = as_request_error(error)
            if told.status == 500:
                log_failure(number, error)
            if status:  # too late for an error response
                log("aborted", logging.WARNING, request=number)
                return
            await respond(told, answered)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.answered(route, status, watch.milliseconds / 1e3)
            log("request", request=number, method=scope["method"], route=route, status=status, ms=watch.milliseconds)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        number = scope.setdefault("state", {})["request"] = f"req_{uuid.uuid4().hex}"
        try:
            self._admit(scope)
        except RequestError:
            await receive()
            await send({"type": "websocket.close", "code": 4401})  # closing before accepting gives HTTP 403
            return
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            log_failure(number, error)
            raise

    def _admit(self, scope: Scope) -> None:
        """Check the origin and key of a request, and record its owner.

        Raises:
            RequestError: its key is missing or wrong; the server has no keys and the request names another host than
                localhost (DNS rebinding); or it comes from a page of another origin.
        """
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            raise RequestError(403, "Requests from pages of another origin are refused.")
        scope["state"]["owner"] = LOCAL
        if scope["path"] in PUBLIC or scope["path"].startswith(PAGE):
            return
        if self._digests:
            scheme, _, key = headers.get("authorization", "").partition(" ")
            given = _digest(key.strip()) if scheme.lower() == "bearer" else ""
            if not any(hmac.compare_digest(digest, given) for digest in self._digests):
                raise RequestError(401, "An API key is missing or wrong.", code="invalid_api_key")
            scope["state"]["owner"] = given
        elif not is_loopback(_host_name(host)):
            raise RequestError(403, "This server answers to localhost only.")

    def _length(self, scope: Scope) -> int:
        """Return the stated length of the body in bytes.

        Raises:
            RequestError: the length is missing or too large, alone or together with other requests.
        """
        headers = dict(scope["headers"])
        if b"transfer-encoding" in headers:
            raise RequestError(411, "A request must state the length of its body (Content-Length).")
        length = int(headers.get(b"content-length", b"0"))
        if length > self._settings.body:
            raise RequestError(413, f"The request is larger than {self._settings.body:,} bytes.")
        if self._bodies and self._bodies + length > _BODIES_AT_ONCE * self._settings.body:
            raise RequestError(429, "Too many large requests at once.", code="server_busy", retry_after=2)
        return length

    def _timely(self, receive: Receive) -> Receive:
        """Return a `receive` that raises an error if the body takes too long."""
        deadline = asyncio.get_running_loop().time() + self._settings.body_seconds
        arriving = True

        async def timely() -> Message:
            nonlocal arriving
            if not arriving:
                return await receive()
            try:
                left = deadline - asyncio.get_running_loop().time()
                message = await asyncio.wait_for(receive(), max(0.0, left))
            except asyncio.TimeoutError:
                raise RequestError(408, "The body of the request arrived too slowly.") from None
            arriving = bool(message.get("more_body"))
            return message

        return timely


async def respond(error: RequestError, send: Send) -> None:
    """Send an error in OpenAI's format."""
    body = json.dumps(error.body).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _host_name(host: str) -> str:
    """Return the name in a Host header, without the port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
