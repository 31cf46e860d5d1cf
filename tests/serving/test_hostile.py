"""More than a hundred hostile requests to a server that listens: none gets in, and none stops the others."""

from __future__ import annotations

import base64
import http.server
import socket
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from video_files import write_video

pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
httpx = pytest.importorskip("httpx")

from hostile import NO_URLS, PRIVATE_URLS, Origin, bomb, png, saved  # noqa: E402
from servers import listening, make_server  # noqa: E402

from kvpress_video.serving.server import addresses, fetching  # noqa: E402
from kvpress_video.serving.server.addresses import HostRules  # noqa: E402
from kvpress_video.serving.server.media import MediaLimits  # noqa: E402

QUESTION = {"question": "What was the first shape to flash?", "max_tokens": 8, "keep": False}
NAMES = ("internal.example", "rebound.example", "metadata.example")
LIMITS = MediaLimits(size=1 << 20, pixels=1 << 22, frames_bytes=4 << 20, duration=60.0, fetching=2.0, decoding=10.0)


class Hostile(NamedTuple):
    """A request that must be refused."""

    kind: str
    path: str
    content: dict[str, Any]
    method: str = "POST"


def chat(*parts: Any, **body: Any) -> dict[str, Any]:
    content = [*parts, {"type": "text", "text": "Where?"}]
    return {"json": {"model": "bundled", "messages": [{"role": "user", "content": content}], "max_tokens": 1} | body}


def shown(url: Any, kind: str = "video_url") -> dict[str, Any]:
    return {"type": kind, kind: {"url": url}}


def data_url(content: bytes, kind: str = "video/mp4") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def long_video(folder: Path) -> bytes:
    return write_video(folder / "long.mp4", frames=130, rate=1, size=(16, 16), picture=lambda *_: _grey()).read_bytes()


def _grey() -> Any:
    import numpy as np

    return np.full((16, 16, 3), 128, np.uint8)


def requests(origin: str, session: str, folder: Path) -> Iterator[Hostile]:
    completions, of = "/v1/chat/completions", f"/v1/sessions/{session}"
    for place, url in enumerate(PRIVATE_URLS):
        yield Hostile("private address", completions, chat(shown(url, ("video_url", "image_url")[place % 2])))
    for name in NAMES:
        yield Hostile("private name", completions, chat(shown(f"http://{name}/clip.mp4")))
        yield Hostile("private name", f"{of}/video", {"json": {"url": f"https://{name}/"}})
    for target in (
        "http://127.0.0.1/",
        "http://2130706433/",
        "http://[::1]/",
        "http://[::ffff:7f00:1]/",
        "//10.0.0.1/",
    ):
        yield Hostile("redirect", completions, chat(shown(f"{origin}/to/{target}")))
        yield Hostile("redirect", f"{of}/video", {"json": {"url": f"{origin}/to/{origin}/to/{target}"}})
    for target in (
        "file:///etc/passwd",
        "/etc/passwd",
        "http://internal.example/",
        "http://8.8.8.8:22/",
        "gopher://8.8.8.8/",
    ):
        yield Hostile("redirect", completions, chat(shown(f"{origin}/to/{target}")))
    for url in NO_URLS:
        yield Hostile("no URL", completions, chat(shown(url)))
    for path in ("../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%00", "a" * 5000, "sess_" + "0" * 32):
        yield Hostile("path", f"/v1/sessions/{path}", {}, "GET")
        yield Hostile("path", f"/v1/saved/{path}", {}, "DELETE")
        yield Hostile("path", f"/page/{path}", {}, "GET")
        yield Hostile("path", "/v1/sessions", {"json": {"saved": path}})
    for content in (bomb(), png(2**31 - 1, 2**31 - 1, b""), png(60_000, 60_000, zlib.compress(b"\0" * 10_000))):
        yield Hostile("bomb", f"{of}/frames", {"content": content})
        yield Hostile("bomb", completions, chat(shown(data_url(content, "image/png"), "image_url")))
    for content in (
        long_video(folder),
        b"\0\0\0\x18ftypmp42" + b"\xff" * 4000,
        b"#EXTM3U\nfile:///etc/passwd\n",
    ):
        yield Hostile("bomb", f"{of}/video", {"content": content, "headers": {"content-type": "video/mp4"}})
        yield Hostile("bomb", completions, chat(shown(data_url(content))))
    for content in (
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"question": "' + b"x" * 300_000 + b'"}',
        b"\xff\xfe",
        b"1e999",
    ):
        yield Hostile("bomb", f"{of}/ask", {"content": content})
    yield Hostile(
        "bomb", f"{of}/ask", {"content": zlib.compress(b" " * 10_000_000), "headers": {"content-encoding": "gzip"}}
    )
    for body in (
        None,
        1,
        [],
        "x",
        {"messages": {}},
        {"messages": [None]},
        {"messages": [{"role": "user", "content": [[]]}]},
    ):
        yield Hostile("type", completions, {"json": body})
    wrong = {"max_tokens": [-1, 1.5, "9" * 400, [1], 10**9], "temperature": ["hot", -1, [1]], "stop": [{}, ["a"] * 99]}
    for name, values in (wrong | {"n": [2, "1"], "seed": [-1, 2**70], "stream": ["maybe"], "tools": [[{}]]}).items():
        for value in values:
            yield Hostile("type", completions, chat(**{name: value}))
    for url in (None, 1, [], {}, "", "x" * 10):
        yield Hostile("type", completions, chat(shown(url)))
    for settings in (
        {"budget": -1},
        {"budget": {}},
        {"method": "../x"},
        {"method": "recent:a=b"},
        {"fps": "x"},
        {"x": 1},
    ):
        yield Hostile("type", "/v1/sessions", {"json": settings})
    for time in ("nan", "inf", "-1e300", "x", "1" * 400):
        yield Hostile("type", f"{of}/frames?time={time}", {"content": saved("PNG", (112, 112))})
    for form in ("TIFF", "BMP", "GIF"):
        yield Hostile("type", f"{of}/frames", {"content": saved(form)})
    for headers in ({"host": "rebound.example"}, {"origin": "http://evil.example"}, {"origin": "null"}):
        yield Hostile("origin", f"{of}/ask", {"json": QUESTION, "headers": headers})
        yield Hostile("origin", of, {"headers": headers}, "DELETE")


def broken_sockets(session: str) -> list[bytes]:
    """Data from clients that then stay silent, or disconnect."""
    head = f"POST /v1/sessions/{session}/ask HTTP/1.1\r\nhost: 127.0.0.1\r\n".encode()
    body = b'{"question": "Where?", "stream": true}'
    return [
        b"",
        b"\0" * 1000,
        b"GET",
        head,
        head + b"content-length: 1000\r\n\r\n{",
        head + b"content-length: -1\r\n\r\n",
        head + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        head + b"x: " + b"y" * 100_000,
        head + f"content-length: {len(body)}\r\n\r\n".encode() + body,
        head + b"upgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ]


@pytest.fixture
def origin() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Origin)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_none_gets_in_and_none_stops_the_others(
    bundled: Any,
    clips: Any,
    origin: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    connected: list[Any] = []
    connect, resolve = socket.create_connection, socket.getaddrinfo
    private = dict(zip(NAMES, ("10.0.0.1", "127.0.0.1", "169.254.169.254"), strict=True))

    def watched(address: Any, *more: Any, **options: Any) -> Any:
        connected.append(address[:2])
        return connect(address, *more, **options)

    def resolved(host: Any, *more: Any, **options: Any) -> Any:
        return resolve(private.get(host, host), *more, **options)

    monkeypatch.setattr(fetching.socket, "create_connection", watched)
    monkeypatch.setattr(addresses.socket, "getaddrinfo", resolved)
    rules = HostRules(frozenset({origin.removeprefix("http://")}))
    server = make_server(bundled, limits=LIMITS, hosts=rules, body_seconds=2.0, body=2 << 20)
    with listening(server) as url, httpx.Client(base_url=url, timeout=120) as client:
        session = client.post("/v1/sessions", json={}).json()["id"]
        video = {"content": clips[0].path.read_bytes(), "headers": {"content-type": "video/mp4"}}
        assert client.post(f"/v1/sessions/{session}/video", **video).status_code == 200
        wanted = client.post(f"/v1/sessions/{session}/ask", json=QUESTION).json()["answer"]
        victim = client.post("/v1/sessions", json={}).json()["id"]
        done, answers = threading.Event(), []

        def goes_on() -> None:
            while not done.is_set():
                answers.append(client.post(f"/v1/sessions/{session}/ask", json=QUESTION).json()["answer"])

        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        held = [connect(address, 20) for _ in broken_sockets(session)]
        for place, (connection, sent) in enumerate(zip(held, broken_sockets(session), strict=True)):
            connection.sendall(sent)
            if place % 3 == 1:
                connection.shutdown(socket.SHUT_WR)
            elif place % 3 == 2:  # a reset
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
        sent = list(requests(origin, victim, tmp_path))
        good = threading.Thread(target=goes_on)
        good.start()
        try:
            with ThreadPoolExecutor(8) as clients:
                found = list(clients.map(lambda each: client.request(each.method, each.path, **each.content), sent))
        finally:
            done.set()
            good.join()
        for connection in held:
            with suppress(OSError):
                connection.close()
        got_in = [
            (each, answer.status_code, answer.text[:200])
            for each, answer in zip(sent, found, strict=True)
            if not 400 <= answer.status_code < 500
        ]
        assert got_in == []
        assert not any("root:" in answer.text for answer in found)
        kinds = Counter(each.kind for each in sent) + Counter({"socket": len(held)})
        assert sum(kinds.values()) >= 100, kinds
        assert min(kinds.values()) >= 6, kinds
        assert [vars(record)["facts"] for record in caplog.records if record.getMessage() == "failure"] == []
        assert set(connected) - {address} == {("127.0.0.1", int(origin.rpartition(":")[2]))}
        assert len(answers) > 5
        assert set(answers) == {wanted}
        assert client.get(f"/v1/sessions/{victim}").json()["frames"] == 0
        assert client.get("/ready").json() == {"ready": True}
        assert server.admission.used == 2 * server.session_bytes
