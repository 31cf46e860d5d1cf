"""`/v1/sessions/{id}/live`: frames and questions of one session over a WebSocket.

The client sends a picture as a binary message, or JSON: `{"time": 1.5}` before a picture, or a question as in
`POST …/ask`. Responses follow in order: `{"frames": …}`, or `{"piece": …}` and finally `{"answer": …}`, or
`{"error": …}`.
"""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter
from pydantic import Field, ValidationError
from pydantic_core import from_json
from starlette.websockets import WebSocket, WebSocketDisconnect

from .failures import RequestError, as_request_error
from .journal import log_failure
from .openai_schema import Strict
from .session_schema import Ask
from .sessions_api import answered, begin_question, owner_of, push_picture
from .state import Server


class FrameTime(Strict):
    """Time of the next picture, in seconds."""

    time: float = Field(ge=-1e10, le=1e10)


def live_routes(server: Server) -> APIRouter:
    """Create the route."""
    router = APIRouter()

    @router.websocket("/v1/sessions/{number}/live")
    async def live(socket: WebSocket, number: str) -> None:
        await socket.accept()
        connection = _Live(server, socket, number)
        try:
            while True:
                message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                await connection.handle(message)
        except WebSocketDisconnect:
            return

    return router


class _Live:
    """One WebSocket connection."""

    def __init__(self, server: Server, socket: WebSocket, number: str) -> None:
        self._server, self._socket, self._number = server, socket, number
        self._owner = owner_of(socket)
        self._time: float | None = None

    async def handle(self, message: Any) -> None:
        """Answer a message; report errors to the client and keep the connection open."""
        try:
            if message.get("bytes") is not None:
                await self._push(message["bytes"])
            else:
                await self._read(message.get("text") or "")
        except WebSocketDisconnect:
            raise
        except Exception as error:
            told = as_request_error(error)
            if told.status == 500:
                log_failure(self._socket.state.request, error)
            await self._send(told.body)

    async def _push(self, content: bytes) -> None:
        time, self._time = self._time, None
        await self._send(await push_picture(self._server, self._owner, self._number, content, time))

    async def _read(self, text: str) -> None:
        try:
            if set(from_json(text)) == {"time"}:
                self._time = FrameTime.model_validate_json(text).time
                return
            asked = Ask.model_validate_json(text)
        except (ValueError, TypeError, ValidationError) as error:
            raise RequestError(400, 'Send a picture, {"time": …} or {"question": …}.') from error
        question, answering = await begin_question(self._server, self._owner, self._number, asked)
        async with aclosing(answering.pieces()) as pieces:
            async for piece in pieces:
                await self._send({"piece": piece})
        await self._send(answered(self._server, question))

    async def _send(self, data: dict[str, Any]) -> None:
        await self._socket.send_text(json.dumps(data))
