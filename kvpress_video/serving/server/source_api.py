"""The routes `/v1/sessions/{id}/source`: a live stream that the server reads into a session."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse

from .bodies import parsed
from .live_sources import LiveSource
from .openai_schema import Strict
from .sessions_api import owner_of
from .state import Server


class ReadSource(Strict):
    """A live stream to read."""

    url: str = Field(min_length=1, max_length=4096)
    fps: float = Field(2.0, gt=0, le=1000)


def source_routes(server: Server) -> APIRouter:
    """Create the routes."""
    router = APIRouter(prefix="/v1")

    async def owned(request: Request, number: str) -> None:
        async with server.sessions.using(owner_of(request), number):
            return

    def told(source: LiveSource) -> dict[str, Any]:
        return {"object": "source", **source.told()}

    @router.post("/sessions/{number}/source")
    async def start(request: Request, number: str) -> JSONResponse:
        asked = await parsed(request, ReadSource)
        return JSONResponse(told(await server.sources.start(owner_of(request), number, asked.url, asked.fps)), 202)

    @router.get("/sessions/{number}/source")
    async def state(request: Request, number: str) -> dict[str, Any]:
        await owned(request, number)
        return told(server.sources.find(number))

    @router.delete("/sessions/{number}/source")
    async def stop(request: Request, number: str) -> dict[str, Any]:
        await owned(request, number)
        return told(await server.sources.stop(number))

    return router
