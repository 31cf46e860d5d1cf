"""Turns of the worker, memory in order of arrival, and answers that end early."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import kvpress_video as kv

pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from servers import BUDGET, METHOD, client_of, make_server

from kvpress_video.serving.server.admission import Admission
from kvpress_video.serving.server.failures import RequestError
from kvpress_video.serving.server.questions import Question
from kvpress_video.serving.server.replies import Cancelled, Reply
from kvpress_video.serving.server.served_session import ServedSession
from kvpress_video.serving.server.worker import Worker


class Held:
    """A worker that waits at a gate, so that a test fills its queue first."""

    def __init__(self, together: int = 1) -> None:
        self.worker, self._gate = Worker(together), threading.Event()
        self.worker.submit("gate", self._gate.wait)
        self.done: list[Any] = []

    def let_go(self) -> None:
        self._gate.set()
        self.worker.end()


def test_owners_take_turns_and_keep_their_order() -> None:
    held = Held()
    for name in ("a1", "a2", "a3", "b1", "c1", "c2"):
        held.worker.submit(name[0], lambda name=name: held.done.append(name))
    held.let_go()
    assert held.done == ["a1", "b1", "c1", "a2", "c2", "a3"]


def test_jobs_of_one_kind_run_together_and_fail_alone() -> None:
    held = Held(together=3)

    def run(items: Sequence[Any]) -> list[Any]:
        held.done.append(list(items))
        if 2 in items:
            raise ValueError
        return [10 * item for item in items]

    futures = [held.worker.submit_item(f"owner {item}", run, item, "kind") for item in (1, 2, 3, 4)]
    other = held.worker.submit_item("owner 5", run, 5, "another kind")
    same_owner = held.worker.submit_item("owner 1", run, 6, "kind")
    held.let_go()
    assert held.done == [[1, 2, 3], [1], [2], [3], [4, 6], [5]]
    assert [future.result() for future in (futures[0], futures[2], futures[3], other, same_owner)] == [
        10,
        30,
        40,
        50,
        60,
    ]
    assert isinstance(futures[1].exception(), ValueError)


def test_cancelled_jobs_do_not_run() -> None:
    held = Held()
    future = held.worker.submit("a", lambda: held.done.append("a"))
    assert future.cancel()
    held.let_go()
    assert held.done == []


def test_memory_is_given_in_order_of_arrival() -> None:
    async def scenario() -> list[str]:
        admission, order = Admission(100, queue=3, patience=30), []

        async def use(name: str, size: int) -> None:
            with await admission.reserve(size):
                order.append(name)
                await asyncio.sleep(0)

        first = await admission.reserve(60)
        tasks = [asyncio.create_task(use(name, size)) for name, size in (("large", 90), ("small", 10), ("gone", 100))]
        await asyncio.sleep(0)
        assert admission.reserve_now(10) is None  # although there is room: others wait for it
        with pytest.raises(RequestError) as busy:
            await admission.reserve(1)
        assert (busy.value.status, busy.value.retry_after is not None) == (429, True)
        with pytest.raises(RequestError) as impossible:
            await admission.reserve(101)
        assert impossible.value.status == 400
        tasks[2].cancel()
        await asyncio.sleep(0)
        first.shrink(30)
        assert admission.used == 30
        first.release()
        await asyncio.gather(*tasks[:2])
        assert (admission.used, admission.waiting) == (0, 0)
        return order

    assert asyncio.run(scenario()) == ["large", "small"]


def test_waiting_has_an_end() -> None:
    async def scenario() -> None:
        admission = Admission(100, queue=3, patience=0.05)
        lacking: list[int] = []
        admission.reclaim = lacking.append
        with await admission.reserve(70):
            with pytest.raises(RequestError) as busy:
                await admission.reserve(50)
            assert busy.value.status == 429
            assert (admission.waiting, lacking) == (0, [20])

    asyncio.run(scenario())


class Letters:
    """A tokenizer whose tokens are characters; 0 is the end, and bytes of a character come one by one."""

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool) -> str:
        return bytes(token for token in tokens if token).decode(errors="replace")


def replied(text: str, limit: int = 100, stops: Sequence[str] = ()) -> tuple[Reply, list[str]]:
    pieces: list[str] = []
    reply = Reply(Letters(), limit, frozenset({0}), stops)
    reply.emit = pieces.append
    for token in text.encode() + b"\0":
        reply.put(token)
    return reply, pieces


def test_pieces_make_up_the_text() -> None:
    reply, pieces = replied("  hé, wörld \n")
    assert reply.text == "".join(pieces) == "hé, wörld"
    assert reply.finish_reason == "stop"
    assert "\ufffd" not in "".join(pieces)


def test_stop_texts_never_show() -> None:
    reply, pieces = replied("one STOP two", stops=("STOP", "other"))
    assert reply.text == "".join(pieces) == "one"
    reply, pieces = replied("one STO", stops=("STOP",))
    assert reply.text == "".join(pieces) == "one STO"
    reply, pieces = replied("abcdef", limit=3)
    assert (reply.text, reply.finish_reason, len(reply.tokens)) == ("abc", "length", 3)


def question(server: Any, session: Any, text: str, cancelled_after: int | None = None) -> Question:
    reply = server.reply(8)
    if cancelled_after is not None:
        put = reply.put

        def counted(token: int) -> None:
            put(token)
            reply.cancelled = len(reply.tokens) >= cancelled_after

        reply.put = counted
    return Question(ServedSession("session", "local", session=session), text, 1, 30, 8, True, reply)


def test_a_cancelled_answer_leaves_no_trace_and_others_go_on(bundled: Any, clips: Any) -> None:
    """Alone, it ends at once; in a batch, the others get the answers that they would get."""
    server = make_server(bundled)
    server.worker.end()
    sessions = [kv.VideoSession(*bundled, METHOD, BUDGET) for _ in range(3)]
    for session, clip in zip(sessions, clips, strict=False):
        session.push_video(clip.path)
    before = [session.stats for session in sessions]
    text = "What was the first shape to flash?"
    with pytest.raises(Cancelled):
        server.asker.ask([question(server, sessions[0], text, 1)])
    wanted = [session.fork().ask(text, max_new_tokens=8) for session in sessions]
    answers = server.asker.ask(
        [question(server, session, text, 1 if session is sessions[1] else None) for session in sessions]
    )
    assert [answers[0], answers[2]] == [wanted[0], wanted[2]]
    assert [len(session.turns) for session in sessions] == [1, 0, 1]
    assert sessions[1].stats.text_entries == before[1].text_entries


def test_a_client_that_leaves_frees_everything(bundled: Any) -> None:
    server = make_server(bundled)
    gate = threading.Event()
    with client_of(server) as client:
        server.worker.submit("gate", gate.wait)
        body = {"model": "bundled", "messages": [{"role": "user", "content": "?"}], "stream": True}

        async def leave() -> None:
            """Send a request, and disconnect before it is answered."""
            from kvpress_video.serving.server.app import make_app

            sent = [{"type": "http.request", "body": json.dumps(body).encode()}, {"type": "http.disconnect"}]
            headers = [(b"host", b"localhost"), (b"content-length", str(len(sent[0]["body"])).encode())]
            scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
            scope |= {
                "query_string": b"",
                "raw_path": b"",
                "scheme": "http",
                "server": ("localhost", 80),
                "root_path": "",
            }

            async def receive() -> Any:
                return sent.pop(0) if len(sent) > 1 else sent[0]

            async def send(_: Any) -> None: ...

            await make_app(server)(scope, receive, send)

        client.portal.call(leave)
        gate.set()
        assert client.get("/health").status_code == 200
    assert server.admission.used == 0


def test_what_a_session_takes_is_planned(bundled: Any, clips: Any) -> None:
    session = kv.VideoSession(*bundled, METHOD, BUDGET)
    planned = session.stream.planned_bytes
    session.push_video(clips[0].path)
    session.ask("Where?", max_new_tokens=4)
    assert session.stats.reserved_bytes == planned
    server = make_server(bundled)
    server.worker.end()
    assert session.stats.peak_bytes <= planned <= server.plan.session(session)
    frame = kv.read_video(clips[0].path).frames[0]
    assert session.planned_bytes(*frame.shape[:2]) > planned


def test_calls_of_other_threads_wait_and_are_stock(bundled: Any, clips: Any) -> None:
    model, processor = bundled
    inputs = kv.prepare(processor, kv.read_video(clips[0].path), "Where?")
    options = {**inputs, "max_new_tokens": 4, "do_sample": False}
    stock = model.generate(**options)
    with ThreadPoolExecutor(1) as other:
        with kv.compress(model, METHOD, 16).exclusive() as run:
            waiting = other.submit(model.generate, **options)
            model.generate(**options)
            assert not waiting.done()
        assert waiting.result().equal(stock)
    assert [report.entries[0] for report in run.reports] == [16]
