"""The page at `/`: files of this package, served without a key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

from .guard import PAGE

_FOLDER = Path(__file__).with_name("page")
_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cache-control": "no-cache",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def page_routes() -> APIRouter:
    """Create the routes."""
    router = APIRouter()
    for path in _FOLDER.iterdir():
        router.add_api_route("/" if path.suffix == ".html" else f"{PAGE}{path.name}", _serving(path), methods=["GET"])
    return router


def _serving(path: Path) -> Callable[[], Awaitable[Response]]:
    async def content() -> Response:
        return Response(path.read_bytes(), media_type=_KINDS[path.suffix], headers=_HEADERS)

    return content
