"""What the front of a cluster passes on, and to whom, with servers that misbehave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
aiohttp = pytest.importorskip("aiohttp")

from kvpress_video.serving.cluster import gathered_metrics, routing  # noqa: E402
from kvpress_video.serving.cluster.front import Front  # noqa: E402
from kvpress_video.serving.cluster.relay import OutOfReachError, address, make_client, relay  # noqa: E402
from kvpress_video.serving.cluster.sockets import relay_socket  # noqa: E402
from kvpress_video.serving.server.held_files import HeldFile  # noqa: E402
from kvpress_video.serving.server.membership import Member  # noqa: E402

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
SCOPE = {"method": "POST", "path": "/", "query_string": b"", "headers": [(b"content-length", b"5")]}


async def never() -> Any:
    await asyncio.Event().wait()


def with_server(talk: Talk, use: Callable[[Any, str], Awaitable[Any]]) -> Any:
    """Run a server of one exchange, and use it with a client."""

    async def run() -> Any:
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with make_client() as client:
            try:
                return await asyncio.wait_for(use(client, url), 20)
            finally:
                server.close()

    return asyncio.run(run())


@pytest.mark.parametrize(
    "target", ["@example.org/", "x@example.org/", ":9/", "1/", ".example.org/", "*", "http://example.org/", "//a.org/"]
)
def test_a_request_cannot_choose_its_server(target: str) -> None:
    found = address("http://127.0.0.1:5000", {"path": target, "raw_path": target.encode(), "query_string": b"a=b"})
    assert (found.host, found.port, found.user) == ("127.0.0.1", 5000, None)
    assert found.raw_path_qs == f"{'' if target.startswith('/') else '/'}{target}?a=b"


def test_a_server_can_refuse_a_body_that_never_comes() -> None:
    """It has the header at once, and its time limit begins."""
    sent: list[Any] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        await reader.read()
        writer.close()

    async def send(message: Any) -> None:
        sent.append(message)

    with_server(refuse, lambda client, url: relay(client, url, SCOPE, never, send))
    assert sent[0]["status"] == 413


def test_another_server_is_asked_where_one_ends_before_it_accepts_a_socket() -> None:
    async def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async def send(message: Any) -> None:
        pytest.fail(f"The client was told {message}.")

    with pytest.raises(OutOfReachError):
        with_server(end, lambda client, url: relay_socket(client, url, SCOPE, never, send, 100))


def test_a_socket_is_told_that_no_server_is_ready(tmp_path: Path) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Front(tmp_path, 100)({**SCOPE, "type": "websocket"}, receive, send))
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.send", "websocket.close"]
    assert json.loads(sent[1]["text"])["error"]["code"] == "no_server"
    assert sent[2]["code"] == 1012


def test_metrics_leave_out_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathered_metrics, "_PATIENCE", aiohttp.ClientTimeout(total=0.5))

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def use(client: Any, url: str) -> bytes:
        return await gathered_metrics.gather_metrics(client, [Member("server_a", url, 1, 0)], [])

    assert with_server(stall, use) == b""


def test_sessions_opened_one_after_the_other_are_shared_out(tmp_path: Path) -> None:
    """Before it is time to look again."""
    files = {name: HeldFile.take(tmp_path / f"{name}.lock") for name in ("server_a", "server_b")}
    sessions = dict.fromkeys(files, 0)

    def state(name: str) -> None:
        held = files[name]
        assert held is not None
        held.tell(url="http://127.0.0.1:1", process=1, sessions=sessions[name])

    async def open_all() -> None:
        servers = routing.Routing(tmp_path)
        for _ in range(6):
            chosen = await servers.choose("/v1/sessions", set())
            assert chosen is not None
            sessions[chosen.name] += 1
            state(chosen.name)

    for name in files:
        state(name)
    asyncio.run(open_all())
    assert sessions == {"server_a": 3, "server_b": 3}


def test_servers_stay_known_while_their_folder_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And those that come later are found."""
    monkeypatch.setattr(routing, "_EVERY", 0.01)
    looks = [[Member("server_a", "", 1, 0)], OSError(24, "Too many open files"), [Member("server_b", "", 1, 0)]]
    seen: list[list[str]] = []

    def members(folder: Path) -> list[Member]:
        found = looks.pop(0) if len(looks) > 1 else looks[0]
        if isinstance(found, OSError):
            raise found
        return found  # type: ignore[return-value]

    monkeypatch.setattr(routing, "members", members)

    async def run() -> None:
        servers = routing.Routing(tmp_path)
        await servers.look()
        await servers.look()
        seen.append([member.name for member in servers.members])
        looks.insert(0, OSError(24, "Too many open files"))
        watching = asyncio.create_task(servers.watch())
        await asyncio.sleep(0.5)
        seen.append([member.name for member in servers.members])
        watching.cancel()

    asyncio.run(run())
    assert seen == [["server_a"], ["server_b"]]
