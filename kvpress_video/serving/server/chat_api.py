"""The routes `/v1/chat/completions` and `/v1/models`, compatible with OpenAI's clients."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from ...video.video import Video
from .answering import Answering, event
from .bodies import parsed
from .choosing import Sampling
from .completions import Asked, Completed
from .failures import RequestError, as_request_error
from .journal import log_failure
from .memory import room_for
from .openai_schema import ChatRequest, ImageLink, TextPart, VideoLink, chunk, completion, parts, usage_chunk
from .prompts import Shown
from .state import Server

_DONE = "[DONE]"
_MARKUP = 64  # tokens around one message, including placeholders of its media


def chat_routes(server: Server) -> APIRouter:
    """Create the routes."""
    router = APIRouter(prefix="/v1")
    started = int(time.time())
    about = {"id": server.name, "object": "model", "created": started, "owned_by": "kvpress-video"}

    @router.get("/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [about]}

    @router.get("/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        check_model(server, name)
        return about

    @router.post("/chat/completions")
    async def complete(request: Request) -> Response:
        asked = await parsed(request, ChatRequest)
        check_model(server, asked.model)
        answering, number = await _begin(server, asked), f"chatcmpl-{uuid.uuid4().hex}"
        if asked.stream:
            pieces = _streamed(server, asked, answering, number, request.state.request)
            return StreamingResponse(pieces, media_type="text/event-stream", headers={"cache-control": "no-store"})
        done: Completed | None = await answering.whole(request)
        if done is None:
            return Response(status_code=499)  # nobody reads it
        reply = answering.reply
        used = server.count(done.prompt_tokens, reply)
        answer = completion(number, server.name, reply.text, reply.finish_reason, used)
        return JSONResponse(answer | _compressed(done))

    return router


def check_model(server: Server, name: str) -> None:
    """Check that a request names the served model.

    Raises:
        RequestError: it names another model.
    """
    if name != server.name:
        raise RequestError(
            404, f"There is no such model here: {server.name!r} is served.", param="model", code="model_not_found"
        )


async def _begin(server: Server, asked: ChatRequest) -> Answering:
    """Read the media of a request, reserve memory for it, and queue its answer."""
    limits, links = server.media.limits, asked.links
    if len(links) > limits.items:
        raise RequestError(400, f"A request may contain at most {limits.items} videos and pictures, got {len(links)}.")
    limit = server.answer_tokens(asked.limit)
    room = room_for(_text(server, asked) + limit)
    videos = sum(isinstance(link, VideoLink) for link in links)
    cache = server.plan.cache(room - limit, limit, bool(links))
    async with server.downloads.contents([link.url for link in links]) as files:
        lease = await server.admission.reserve(cache + server.plan.media(videos, len(links) - videos))
        try:
            found = zip(links, files, strict=True)
            shown = [await asyncio.to_thread(_decoded, server, link, content) for link, content in found]
            size = sum(each.frames.nbytes if isinstance(each, Video) else each.nbytes for each in shown)
            lease.shrink(cache + server.plan.decoded(size))
            reply = server.reply(limit, asked.stops)
            queued = Asked(asked, shown, Sampling.of(asked), limit, reply, kind=(room, bool(links)))
            return Answering(reply, lambda: server.completion_queue.submit(queued), lease.release)
        except BaseException:
            lease.release()
            raise


def _decoded(server: Server, link: ImageLink | VideoLink, content: bytes) -> Shown:
    if isinstance(link, VideoLink):
        return server.media.decode_video(content, link.fps, link.start, link.end)
    return server.media.decode_picture(content)


def _text(server: Server, asked: ChatRequest) -> int:
    """Count the tokens of a request's text, markup included."""
    texts = [part.text for message in asked.messages for part in parts(message) if isinstance(part, TextPart)]
    return server.text_tokens(texts) + _MARKUP * len(asked.messages)


def _compressed(done: Completed) -> dict[str, Any]:
    """Describe the compressed cache, in addition to OpenAI's fields."""
    report = done.report
    if report is None:
        return {}
    kept = {"visual_tokens": report.visual_tokens, "entries": max(report.entries), "bytes": report.bytes}
    return {"cache": {"method": report.method, "budget": report.asked, **kept, "full_bytes": report.full_bytes}}


async def _streamed(
    server: Server, asked: ChatRequest, answering: Answering, number: str, request: str
) -> AsyncIterator[str]:
    yield event(chunk(number, server.name, {"role": "assistant", "content": ""}))
    try:
        async with aclosing(answering.pieces()) as pieces:
            async for piece in pieces:
                yield event(chunk(number, server.name, {"content": piece}))
        done: Completed = await answering.result()
    except Exception as error:
        told = as_request_error(error)
        if told.status == 500:
            log_failure(request, error)
        yield event(told.body)
        return
    used = server.count(done.prompt_tokens, answering.reply)
    yield event(chunk(number, server.name, {}, answering.reply.finish_reason))
    if asked.stream_options and asked.stream_options.include_usage:
        yield event(usage_chunk(number, server.name, used))
    yield event(_DONE)
