"""Servers that share a folder behind one address: sessions move with their files, and what is lost is told."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import kvpress_video as kv

pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
pytest.importorskip("aiohttp")
httpx = pytest.importorskip("httpx")

from clusters import QUESTION, Cluster, ask, cluster, opened, push  # noqa: E402
from servers import BUDGET, METHOD  # noqa: E402


@pytest.fixture(scope="module")
def video(clips: Any) -> Any:
    return kv.read_video(clips[0].path)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """For the tests that need no more servers than these."""
    with cluster(tmp_path_factory.mktemp("cluster") / "sessions", 2) as made:
        yield made


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Cluster]:
    with cluster(tmp_path / "sessions", 2) as made:
        yield made


@pytest.fixture
def client(shared: Cluster) -> Iterator[Any]:
    with httpx.Client(base_url=shared.url, timeout=120) as made:
        yield made


def reference(bundled: Any, video: Any, frames: int) -> str:
    session = kv.VideoSession(*bundled, METHOD, BUDGET, keep_turns=4)
    for number in range(frames):
        session.push(video.frames[number][None], [number / 2])
    return session.ask(QUESTION, max_new_tokens=8)


def test_completions_go_to_the_least_busy_server(quick: Cluster) -> None:
    """One server does not go on: requests that come meanwhile are answered by the other."""
    stopped = next(iter(quick.servers.values()))
    quick.signal(stopped, signal.SIGSTOP)
    client = httpx.Client(base_url=quick.url, timeout=120)
    body = {"model": "bundled", "messages": [{"role": "user", "content": "?"}], "max_tokens": 1}
    try:
        with ThreadPoolExecutor(2) as asking:
            waiting = [asking.submit(client.post, "/v1/chat/completions", json=body) for _ in range(2)]
            wait(waiting, 60, FIRST_COMPLETED)
            statuses = []
            for _ in range(3):
                time.sleep(0.5)  # an answer is counted as long as its connection is open, which its reader cannot see
                statuses.append(client.post("/v1/chat/completions", json=body).status_code)
            answered = sum(each.done() for each in waiting)
            os.kill(stopped, signal.SIGCONT)
            statuses += [each.result().status_code for each in waiting]
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert answered == 1
    assert statuses == [200] * 5


def test_sockets_pass_through(quick: Cluster, video: Any) -> None:
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    session = opened(httpx.Client(base_url=quick.url, timeout=120))
    content = io.BytesIO()
    Image.fromarray(video.frames[0]).save(content, "PNG")
    with connect(f"{quick.url.replace('http', 'ws')}/v1/sessions/{session}/live") as socket:
        socket.send(content.getvalue())
        assert json.loads(socket.recv(60))["frames"] == 1
        socket.send(json.dumps({"question": QUESTION, "max_tokens": 4}))
        while "answer" not in (told := json.loads(socket.recv(60))):
            assert "piece" in told
        threading.Thread(target=quick.signal, args=(quick.process_of(session), signal.SIGKILL)).start()
        assert json.loads(socket.recv(60))["error"]["code"] == "server_lost"
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(60)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012


@pytest.mark.slow
def test_sessions_follow_their_files(shared: Cluster, client: Any, bundled: Any, video: Any) -> None:
    """One server drains: nothing is lost. The next is killed: what came after the last save is told by its time."""
    assert client.get("/ready").json() == {"ready": True, "servers": 2}
    sessions = [opened(client) for _ in range(4)]
    assert {shared.process_of(session) for session in sessions} == set(shared.servers.values())
    for session in sessions:
        push(client, session, video, 0, 6)
    drained = shared.process_of(sessions[0])
    shared.signal(drained, signal.SIGTERM)
    wanted = reference(bundled, video, 6)
    for session in sessions:
        told = ask(client, session).json()
        assert (told["answer"], told.get("lost")) == (wanted, None)
    moved = [session for session in sessions if shared.process_of(session) != drained]
    assert moved == sessions
    assert "server=" in client.get("/metrics").text

    shared.start()
    (old,) = set(shared.servers.values()) & {shared.process_of(session) for session in sessions}
    assert push(client, sessions[0], video, 6, 9)["frames"] == 9
    shared.signal(old, signal.SIGKILL)
    lost = {"frames": 3, "after": 2.5, "until": 4.0, "turns": 0}
    told = ask(client, sessions[0]).json()
    assert (told["answer"], told["lost"]) == (wanted, lost)
    assert client.get(f"/v1/sessions/{sessions[0]}").json()["lost"] == lost
    assert push(client, sessions[0], video, 6, 9)["lost"] == lost
    assert ask(client, sessions[0]).json()["answer"] == reference(bundled, video, 9)
    known = {each["id"] for each in client.get("/v1/sessions").json()["data"]}
    assert known == set(sessions)
    assert client.delete(f"/v1/sessions/{sessions[1]}").status_code == 204
    assert ask(client, sessions[1]).status_code == 404


@pytest.mark.slow
def test_a_server_that_is_killed_during_an_answer(shared: Cluster, client: Any, video: Any) -> None:
    """Its client is told to ask again, in the form of the answer that it waits for, and the other server answers."""
    session = opened(client)
    assert push(client, session, video, 0, 4)["frames"] == 4
    process = shared.process_of(session)
    with ThreadPoolExecutor(1) as asking:
        shared.signal(process, signal.SIGSTOP)
        waiting = asking.submit(ask, client, session)
        time.sleep(0.5)
        assert not waiting.done()
        shared.signal(process, signal.SIGKILL)
        answer = waiting.result()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"]["code"] == "server_lost"
    assert answer.json()["error"]["type"] == "server_error"
    assert ask(client, session).json()["lost"]["frames"] == 4

    shared.signal(shared.process_of(session), signal.SIGKILL)
    unserved = ask(client, session)
    assert (unserved.status_code, unserved.json()["error"]["code"]) == (503, "no_server")
    assert int(unserved.headers["retry-after"]) > 0
    assert client.get("/ready").status_code == 503


def test_a_stream_whose_server_ends_closes_with_an_error() -> None:
    from kvpress_video.serving.cluster.relay import make_client, relay

    sent: list[Any] = []

    async def end_early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(head + b"5\r\nfirst\r\n")
        await writer.drain()
        writer.close()

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    async def run() -> None:
        server = await asyncio.start_server(end_early, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        scope = {"method": "GET", "path": "/", "query_string": b"", "headers": []}
        async with server, make_client() as client:
            await relay(client, f"http://127.0.0.1:{port}", scope, receive, send)

    asyncio.run(run())
    bodies = [message["body"] for message in sent[1:]]
    assert bodies[0] == b"first"
    assert json.loads(bodies[1][6:])["error"]["code"] == "server_lost"
    assert not sent[-1].get("more_body")
