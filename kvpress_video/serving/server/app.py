"""The ASGI application: routes behind the guard, with errors in one format."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from ...errors import KVPressVideoError
from .chat_api import chat_routes
from .failures import RequestError, as_request_error
from .guard import Guard
from .live_api import live_routes
from .metrics import CONTENT_TYPE
from .page_api import page_routes
from .sessions_api import session_routes
from .source_api import source_routes
from .state import Server


def make_app(server: Server) -> Any:
    """Make the ASGI application of a server."""

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        await server.begin()
        try:
            yield
        finally:
            await server.end()

    app = FastAPI(lifespan=running, openapi_url=None)
    for kind in (RequestError, KVPressVideoError, RequestValidationError, HTTPException, ClientDisconnect, Exception):
        app.add_exception_handler(kind, _told)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> JSONResponse:
        return JSONResponse({"ready": server.ready}, 200 if server.ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(server.metrics.page(), media_type=CONTENT_TYPE)

    for routes in (chat_routes, session_routes, live_routes, source_routes):
        app.include_router(routes(server))
    app.include_router(page_routes())
    return Guard(app, server.settings, server.metrics)


async def _told(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, HTTPException):
        error = RequestError(error.status_code, str(error.detail))
    if isinstance(error, RequestValidationError):
        place = str(error.errors()[0]["loc"][-1])
        error = RequestError(400, f"{place} cannot be read.", param=place)
    told = as_request_error(error)
    return JSONResponse(told.body, told.status, told.headers)
