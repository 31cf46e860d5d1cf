"""Pass the messages of a WebSocket on to a server, and its messages back."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

import aiohttp

from ..server.failures import RequestError
from ..server.guard import Receive, Scope, Send
from .relay import OutOfReachError, address, lost, passed_on

_RESTART = 1012
_REFUSED = 4401
_HANDSHAKE = ("sec-websocket-extensions", "sec-websocket-key", "sec-websocket-version", "sec-websocket-protocol")


async def relay_socket(
    client: aiohttp.ClientSession, server: str, scope: Scope, receive: Receive, send: Send, largest: int
) -> None:
    """Relay one WebSocket whose client waits to be accepted, until one of the two closes it.

    Args:
        client: to connect with.
        server: to connect to.
        scope, receive, send: of ASGI.
        largest: message, in bytes.

    Raises:
        OutOfReachError: the server could not be reached.
    """
    try:
        socket = await client.ws_connect(
            address(server, scope),
            headers=passed_on(scope["headers"], without=_HANDSHAKE),
            protocols=scope.get("subprotocols", ()),
            max_msg_size=largest,
        )
    except aiohttp.WSServerHandshakeError:  # the server refused
        await send({"type": "websocket.close", "code": _REFUSED})
        return
    except aiohttp.ClientError as error:  # it has ended, and the client has sent no message yet
        raise OutOfReachError from error
    async with socket:
        await send({"type": "websocket.accept", "subprotocol": socket.protocol})
        tasks = [asyncio.create_task(_up(socket, receive)), asyncio.create_task(_down(socket, send))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _up(socket: aiohttp.ClientWebSocketResponse, receive: Receive) -> None:
    """Pass on what the client sends, until it closes the connection."""
    while (message := await receive())["type"] != "websocket.disconnect":
        with suppress(aiohttp.ClientError, ConnectionError):  # the other direction says so
            if message.get("bytes") is not None:
                await socket.send_bytes(message["bytes"])
            else:
                await socket.send_str(message.get("text") or "")
    with suppress(aiohttp.ClientError, ConnectionError):
        await socket.close(code=message.get("code") or aiohttp.WSCloseCode.OK)


async def _down(socket: aiohttp.ClientWebSocketResponse, send: Send) -> None:
    """Pass on what the server sends, until it closes the connection or ends."""
    async for message in socket:
        if message.type is aiohttp.WSMsgType.BINARY:
            await send({"type": "websocket.send", "bytes": message.data})
        elif message.type is aiohttp.WSMsgType.TEXT:
            await send({"type": "websocket.send", "text": message.data})
    code = socket.close_code
    if code in (None, aiohttp.WSCloseCode.ABNORMAL_CLOSURE):
        return await close_with(lost(), send)
    await send({"type": "websocket.close", "code": code})


async def close_with(error: RequestError, send: Send, accepted: bool = True) -> None:
    """Tell a client why it has to connect again; one that was not accepted is accepted first, to read it."""
    if not accepted:
        await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": json.dumps(error.body)})
    await send({"type": "websocket.close", "code": _RESTART})
