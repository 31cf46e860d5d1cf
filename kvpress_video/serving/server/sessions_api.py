"""The routes `/v1/sessions`: growing videos with questions about them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from ...video.video import Video
from .answering import Answering, event
from .bodies import parsed
from .failures import RequestError, as_request_error
from .journal import log_failure
from .kept import kept_of
from .questions import Question
from .session_schema import Ask, OpenSession, PushVideo, described, lost, summary
from .state import Server

_GROUP = 8  # frames of a video pushed in one turn
_MARKUP = 64
_MOST_STEPS = 256  # steps described in one response


def session_routes(server: Server) -> APIRouter:
    """Create the routes."""
    router, sessions = APIRouter(prefix="/v1"), server.sessions

    @router.get("/methods")
    async def methods() -> dict[str, Any]:
        usual = {"model": server.name, "method": server.settings.method, "budget": server.settings.budget}
        return {"object": "list", **usual, "data": await server.methods.read()}

    @router.post("/sessions")
    async def open_session(request: Request) -> JSONResponse:
        asked = await parsed(request, OpenSession)
        if asked.saved is not None:
            served = await sessions.load(owner_of(request), asked.saved)
        else:
            settings = server.settings
            if server.text_tokens([asked.system or ""]) > settings.session_text // 2:
                raise RequestError(400, "The system message is too long for a session.", param="system")
            served = await sessions.open(owner_of(request), asked.arguments(settings.method, settings.budget))
        return JSONResponse(summary(served), 201)

    @router.get("/sessions")
    async def list_sessions(request: Request) -> dict[str, Any]:
        return {"object": "list", "data": [summary(served) for served in sessions.owned(owner_of(request))]}

    @router.get("/sessions/{number}")
    async def stats(request: Request, number: str) -> dict[str, Any]:
        async with sessions.using(owner_of(request), number) as served:
            return await sessions.run(served, lambda: described(served))

    @router.get("/sessions/{number}/kept")
    async def kept(
        request: Request, number: str, last: Annotated[int, Query(ge=0, le=_MOST_STEPS)] = 16
    ) -> dict[str, Any]:
        async with sessions.using(owner_of(request), number) as served:
            return await sessions.run(served, lambda: kept_of(served.live, last))

    @router.delete("/sessions/{number}")
    async def close(request: Request, number: str) -> Response:
        await sessions.close(owner_of(request), number)
        await server.sources.forget(number)
        return Response(status_code=204)

    @router.post("/sessions/{number}/frames")
    async def push_frame(request: Request, number: str, time: float | None = None) -> dict[str, Any]:
        return await push_picture(server, owner_of(request), number, await request.body(), time)

    @router.post("/sessions/{number}/video")
    async def push_video(request: Request, number: str) -> dict[str, Any]:
        return await _push_video(server, request, number)

    @router.post("/sessions/{number}/ask")
    async def ask(request: Request, number: str) -> Response:
        asked = await parsed(request, Ask)
        question, answering = await begin_question(server, owner_of(request), number, asked)
        if asked.stream:
            pieces = _streamed(server, question, answering, request.state.request)
            return StreamingResponse(pieces, media_type="text/event-stream", headers={"cache-control": "no-store"})
        if await answering.whole(request) is None:
            return Response(status_code=499)  # no client reads it
        return JSONResponse(answered(server, question))

    @router.post("/sessions/{number}/fork")
    async def fork(request: Request, number: str) -> JSONResponse:
        async with sessions.using(owner_of(request), number) as served:
            return JSONResponse(summary(await sessions.fork(served)), 201)

    @router.post("/sessions/{number}/save")
    async def save(request: Request, number: str) -> dict[str, str]:
        async with sessions.using(owner_of(request), number) as served:
            return {"saved": await sessions.save(served)}

    @router.delete("/saved/{name}")
    async def delete(request: Request, name: str) -> Response:
        sessions.delete(owner_of(request), name)
        return Response(status_code=204)

    return router


def owner_of(connection: HTTPConnection) -> str:
    """Return the owner of a connection."""
    owner: str = connection.state.owner
    return owner


async def push_picture(server: Server, owner: str, number: str, content: bytes, time: float | None) -> dict[str, Any]:
    """Append a JPEG, PNG or WebP to a session.

    Raises:
        RequestError: there is no such session, or the content is not a picture.
        VideoError: its size or time does not fit the frames before it.
    """
    async with server.sessions.using(owner, number) as served:
        frame = await asyncio.to_thread(server.media.decode_picture, content)
        return await server.push(served, frame[None], None if time is None else [time])


async def _push_video(server: Server, request: Request, number: str) -> dict[str, Any]:
    """Append a video from the body or a URL, a few frames at a time, so that other clients get turns in between."""
    if request.headers.get("content-type", "").startswith("video/"):
        return await _push_file(
            server, request, number, await request.body(), PushVideo.model_validate({"url": "body"})
        )
    asked = await parsed(request, PushVideo)
    async with server.downloads.contents([asked.url]) as files:
        return await _push_file(server, request, number, files[0], asked)


async def _push_file(server: Server, request: Request, number: str, content: bytes, asked: PushVideo) -> dict[str, Any]:
    with await server.admission.reserve(server.plan.pushed_video) as lease:
        decode = server.media.decode_video
        video: Video = await asyncio.to_thread(decode, content, asked.fps, asked.start, asked.end)
        lease.shrink(video.frames.nbytes)
        async with server.sessions.using(owner_of(request), number) as served:
            last = served.live.stats.seconds
            offset = 0.0 if last is None else last + 1 / video.fps - float(video.times[0])
            told: dict[str, Any] = {}
            for first in range(0, len(video), _GROUP):
                part = slice(first, first + _GROUP)
                told = await server.push(served, video.frames[part], list(video.times[part] + offset))
            return told


async def begin_question(server: Server, owner: str, number: str, asked: Ask) -> tuple[Question, Answering]:
    """Queue a question to a session, which is held in memory until the answer is done.

    Raises:
        RequestError: there is no such session, or the question is too long.
    """
    limit = server.answer_tokens(asked.max_tokens)
    prompt = server.text_tokens([asked.question])
    served = await server.sessions.acquire(owner, number)
    copy = server.admission.reserve_now(served.need)  # a batch copies the caches of its sessions

    def finished() -> None:
        if copy is not None:
            copy.shrink(0)
        server.sessions.release(served)

    try:
        reply, tokens = server.reply(limit), prompt + _MARKUP + limit
        question = Question(served, asked.question, prompt, tokens, limit, asked.keep, reply, copy is None)

        def start() -> Future[Any]:
            return server.worker.submit_item(served.id, server.asker.ask, question, question.kind)

        return question, Answering(reply, start, finished)
    except BaseException:
        finished()
        raise


def answered(server: Server, question: Question) -> dict[str, Any]:
    """Describe a finished answer, and count its usage, for which the prompt is the question alone."""
    reply = question.reply
    used = server.count(question.prompt, reply)
    return {"answer": reply.text, "finish_reason": reply.finish_reason, "usage": used} | lost(question.served)


async def _streamed(server: Server, question: Question, answering: Answering, request: str) -> AsyncIterator[str]:
    try:
        async with aclosing(answering.pieces()) as pieces:
            async for piece in pieces:
                yield event({"piece": piece})
    except Exception as error:
        told = as_request_error(error)
        if told.status == 500:
            log_failure(request, error)
        yield event(told.body)
        return
    yield event(answered(server, question))
    yield event("[DONE]")
