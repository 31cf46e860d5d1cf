"""What a server lets in: keys, hosts, addresses, paths, sizes and hostile media."""

from __future__ import annotations

import base64
import http.server
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kvpress_video.errors import UnknownNameError

pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from hostile import NO_URLS, PRIVATE_URLS, Origin, bomb, png, saved
from servers import client_of, listening, make_server, settings
from starlette.websockets import WebSocketDisconnect

from kvpress_video.serving.server import addresses
from kvpress_video.serving.server.addresses import HostRules, is_public
from kvpress_video.serving.server.failures import RequestError
from kvpress_video.serving.server.fetching import fetch
from kvpress_video.serving.server.media import MediaLimits, MediaReader
from kvpress_video.serving.server.settings import read_keys

KEY = "a-key-of-many-characters"


@pytest.mark.parametrize("url", PRIVATE_URLS)
def test_private_addresses_are_not_connected_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "create_connection", lambda *_: pytest.fail("connected"))
    with pytest.raises(RequestError) as refused:
        fetch(url, HostRules(), 10, 1.0)
    assert refused.value.status == 400


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MediaReader]:
    folder = tmp_path_factory.mktemp("allowed")
    reader = MediaReader(MediaLimits(size=1 << 20, pixels=1 << 22, kept=1 << 16), HostRules(), (folder,))
    yield reader
    reader.close()


@pytest.mark.parametrize("url", NO_URLS)
def test_what_is_no_url_of_media_is_refused(url: str, reader: MediaReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "create_connection", lambda *_: pytest.fail("connected"))
    with pytest.raises(RequestError) as refused:
        reader.content(url)
    assert refused.value.code == "invalid_url"


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::8.8.8.8", "::ffff:8.8.8.8"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


def test_a_name_with_one_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(*_: Any, **__: Any) -> list[Any]:
        return [(0, 0, 0, "", (address, 80)) for address in ("8.8.8.8", "10.0.0.1")]

    monkeypatch.setattr(addresses.socket, "getaddrinfo", found)
    with pytest.raises(RequestError):
        HostRules().endpoint("http://rebound.example/")
    assert HostRules(frozenset({"rebound.example"})).endpoint("http://rebound.example/").addresses


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Origin)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_downloads_have_limits(origin: str) -> None:
    rules = HostRules(frozenset({origin.removeprefix("http://")}))
    assert fetch(f"{origin}/clip", rules, 7, 5.0) == b"content"
    assert fetch(f"{origin}/to//clip", rules, 7, 5.0) == b"content"
    began = time.monotonic()
    for path, reason in (("endless", "larger"), ("slow", "too long"), ("to//to//to//to//clip", "redirects")):
        with pytest.raises(RequestError, match=reason):
            fetch(f"{origin}/{path}", rules, 1 << 20, 1.0)
    assert time.monotonic() - began < 10
    with pytest.raises(RequestError):
        fetch(f"{origin}/clip", HostRules(), 7, 5.0)


@pytest.mark.parametrize("target", ["http://127.0.0.1:1/", "http://2130706433/", "file:///etc/passwd", "//10.0.0.1/"])
def test_redirects_are_checked_too(origin: str, target: str) -> None:
    rules = HostRules(frozenset({origin.removeprefix("http://")}))
    with pytest.raises(RequestError) as refused:
        fetch(f"{origin}/to/{target}", rules, 100, 5.0)
    assert refused.value.code == "invalid_url"


def test_the_checked_address_is_the_one_connected_to(origin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that resolves to another address the second time is not resolved a second time."""
    port = int(origin.rpartition(":")[2])
    answers = [[(0, 0, 0, "", ("127.0.0.1", port))]]
    resolve = socket.getaddrinfo

    def once(host: str, *more: Any, **options: Any) -> Any:
        return answers.pop() if host == "rebound.example" else resolve(host, *more, **options)

    monkeypatch.setattr(addresses.socket, "getaddrinfo", once)
    rules = HostRules(frozenset({f"rebound.example:{port}"}))
    assert fetch(f"http://rebound.example:{port}/clip", rules, 100, 5.0) == b"content"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"no picture",
        b"GIF89a",
        saved("GIF"),
        saved("TIFF"),
        saved("BMP"),
        saved("PNG")[:40],
        saved("JPEG")[:100],
        saved("WEBP")[:20],
        png(2**31 - 1, 2**31 - 1, b""),
        png(0, 0, b""),
        png(1000, 1000, b"\xff" * 100),
        bomb(),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) (r) file",
        b"push graphic-context\nurl(/etc/passwd)",
        b"\x89PNG\r\n\x1a\n" + b"\xff" * 1000,
    ],
    ids=range(18),
)
def test_pictures_that_are_none_or_too_large(reader: MediaReader, content: bytes) -> None:
    with pytest.raises(RequestError) as refused:
        reader.decode_picture(content)
    assert refused.value.status == 400
    assert reader.decode_picture(saved("JPEG")).shape == (16, 16, 3)


def test_a_dead_decoder_is_started_again(reader: MediaReader) -> None:
    assert reader.decode_picture(saved("WEBP")).shape == (16, 16, 3)
    decoder = reader._pictures
    assert decoder._process is not None
    decoder._process.kill()
    decoder._process.wait()
    assert reader.decode_picture(saved("PNG", (512, 256))).shape == (181, 362, 3)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no video",
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"v=0\r\nc=IN IP4 127.0.0.1\r\nm=video 9 RTP/AVP 96\r\n",
        b"\0\0\0\x18ftypmp42" + b"\xff" * 200,
        b"RIFF\xff\xff\xff\xffAVI " + b"\0" * 100,
        b"\x1a\x45\xdf\xa3" + b"\xff" * 100,
    ],
    ids=range(9),
)
def test_videos_that_are_none(reader: MediaReader, content: bytes) -> None:
    with pytest.raises(RequestError) as refused:
        reader.decode_video(content)
    assert refused.value.code == "invalid_video"
    assert "root:" not in refused.value.message


def test_files_are_read_below_allowed_folders_only(tmp_path: Path) -> None:
    allowed, secret = tmp_path / "allowed", tmp_path / "secret.png"
    allowed.mkdir()
    for path in (allowed / "a b.png", secret):
        path.write_bytes(saved("PNG"))
    (allowed / "link.png").symlink_to(secret)
    (allowed / "folder").mkdir()
    reader = MediaReader(MediaLimits(), HostRules(), (allowed,))
    try:
        good = (str(allowed / "a b.png"), f"file://{allowed}/a%20b.png", f"{allowed}/folder/../a b.png")
        assert [reader.content(name) for name in good] == [saved("PNG")] * 3
        bad = [
            str(secret),
            secret.as_uri(),
            f"{allowed}/../secret.png",
            f"file://{allowed}/%2e%2e/secret.png",
            f"{allowed}/link.png",
            f"{allowed}/folder",
            f"{allowed}/missing.png",
            f"{allowed}\0",
        ]
        for name in bad:
            with pytest.raises(RequestError) as refused:
                reader.content(name)
            assert refused.value.code == "invalid_url"
            assert "secret" not in refused.value.message
    finally:
        reader.close()


def test_other_hosts_than_loopback_need_keys(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.com"):
        with pytest.raises(UnknownNameError, match="API keys"):
            settings(host=host)
        assert settings(host=host, keys=(KEY,)).host == host
    file = tmp_path / "keys"
    file.write_text(f"# comment\n\n{KEY}\n")
    file.chmod(0o644)
    with pytest.raises(UnknownNameError, match="chmod 600"):
        read_keys(file)
    file.chmod(0o600)
    assert read_keys(file) == (KEY,)
    for text in ("", "short", f"{KEY}\nshort"):
        file.write_text(text)
        with pytest.raises(UnknownNameError, match="16 characters"):
            read_keys(file)


def test_keys_hosts_and_origins(bundled: Any) -> None:
    with client_of(make_server(bundled, keys=(KEY, KEY[::-1]))) as client:
        for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": KEY}, {"authorization": f"Basic {KEY}"}):
            answer = client.get("/v1/models", headers=given)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        for key in (KEY, KEY[::-1]):
            assert client.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code == 200
        assert client.get("/health").status_code == 200
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/v1/sessions/x/live"):
            pass
    with client_of(make_server(bundled)) as client:
        refused = ({"host": "rebound.example"}, {"host": ""}, {"origin": "http://evil.example"}, {"origin": "null"})
        assert [client.get("/v1/models", headers=given).status_code for given in refused] == [403] * 4
        same = {"host": "127.0.0.1:8000", "origin": "http://127.0.0.1:8000"}
        assert client.get("/v1/models", headers=same).status_code == 200


def test_bodies_have_limits(bundled: Any) -> None:
    with client_of(make_server(bundled, body=1000)) as client:
        assert client.post("/v1/chat/completions", content=b" " * 1001).status_code == 413
        assert client.post("/v1/chat/completions", content=iter([b"{}"])).status_code == 411
        deep = b"[" * 900
        assert client.post("/v1/chat/completions", content=deep).status_code == 400


def test_logs_hold_nothing_of_users(bundled: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "kvpress_video.server")
    with client_of(make_server(bundled)) as client:
        content = {"model": "bundled", "messages": [{"role": "user", "content": "confidential"}], "max_tokens": 1}
        number = client.post("/v1/chat/completions", json=content).headers["x-request-id"]
    facts = [record.facts for record in caplog.records if record.getMessage() == "request"]  # type: ignore[attr-defined]
    assert [(fact["request"], fact["status"], fact["route"]) for fact in facts] == [
        (number, 200, "/v1/chat/completions")
    ]
    assert "confidential" not in str([(record.getMessage(), vars(record)) for record in caplog.records])


def test_broken_clients_do_not_stop_others(bundled: Any) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
    broken = [
        b"",
        b"\r\n" * 100,
        b"GARBAGE",
        b"GET / HTTP/9.9\r\n\r\n",
        head,
        head + b"content-length: 100\r\n\r\n{",
        head + b"content-length: -1\r\n\r\n",
        head + b"content-length: 99999999999999999999\r\n\r\n",
        head + b"content-length: 1\r\ncontent-length: 2\r\n\r\n",
        head + b"transfer-encoding: chunked\r\n\r\nffffffff\r\n",
        head + b"x: " + b"y" * 100_000,
    ]
    server = make_server(bundled, body_seconds=1.0)
    with listening(server) as url:
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        held = [socket.create_connection(address, 20) for _ in broken]
        for connection, sent in zip(held, broken, strict=True):
            connection.sendall(sent)
        held[4].shutdown(socket.SHUT_WR)
        import httpx

        content = {"model": "bundled", "messages": [{"role": "user", "content": "?"}], "max_tokens": 1}
        assert httpx.post(f"{url}/v1/chat/completions", json=content, timeout=60).status_code == 200
        assert b"408" in held[5].recv(1000)
        for connection in held:
            connection.close()
        assert httpx.get(f"{url}/ready").json() == {"ready": True}
    assert server.admission.used == 0


def test_silent_connections_end_and_websockets_stay(bundled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client = pytest.importorskip("websockets.sync.client")
    monkeypatch.setattr("kvpress_video.serving.server.listening._HEADER_SECONDS", 1.0)
    with (
        listening(make_server(bundled)) as url,
        client.connect(f"{url.replace('http', 'ws')}/v1/sessions/x/live") as live,
    ):
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 20) as silent:
            silent.sendall(b"GET / HTTP/1.1\r\n")
            assert silent.recv(100) == b""
        live.send('{"question": "?"}')
        assert "session_not_found" in live.recv(20)


def test_slow_downloads_delay_nothing_else(bundled: Any, origin: str) -> None:
    limits = MediaLimits(downloads=2, fetching=5.0)
    server = make_server(bundled, limits=limits, hosts=HostRules(frozenset({origin.removeprefix("http://")})), queue=2)
    with client_of(server) as client, ThreadPoolExecutor(6) as clients:

        def look(url: str) -> Any:
            part = {"type": "image_url", "image_url": {"url": url}}
            body = {"model": "bundled", "messages": [{"role": "user", "content": [part]}], "max_tokens": 1}
            return client.post("/v1/chat/completions", json=body)

        slow = [clients.submit(look, f"{origin}/slow") for _ in range(5)]
        while Origin.asked.count("/slow") < 2:
            time.sleep(0.01)
        url = f"data:image/png;base64,{base64.b64encode(saved('PNG')).decode()}"
        assert look(url).status_code == 200
        assert sum(not each.done() for each in slow) >= 2
        assert sorted(each.result().status_code for each in slow) == [400, 400, 400, 400, 429]
    assert server.admission.used == 0


def test_data_urls_are_decoded(reader: MediaReader) -> None:
    url = f"data:image/png;base64,{base64.b64encode(saved('PNG')).decode()}"
    assert reader.decode_picture(reader.content(url)).shape == (16, 16, 3)
