"""Live streams that a server reads into sessions."""

from __future__ import annotations

import io
import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_streams import hls_server, rtsp_server
from PIL import Image

pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from servers import client_of, make_server

from kvpress_video.errors import VideoError
from kvpress_video.serving.server import live_sources
from kvpress_video.serving.server.held_files import is_held
from kvpress_video.serving.server.media import MediaLimits


def opened(client: Any) -> str:
    number: str = client.post("/v1/sessions", json={}).json()["id"]
    return number


def ended(client: Any, number: str) -> Any:
    deadline = time.monotonic() + 120
    while (found := client.get(f"/v1/sessions/{number}/source").json())["state"] == "running":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def test_a_stream_is_read_into_a_session(bundled: Any, tmp_path: Path) -> None:
    server = make_server(bundled, sources=frozenset({"127.0.0.1"}))
    with client_of(server) as client, hls_server(tmp_path) as url:
        number = opened(client)
        assert client.get(f"/v1/sessions/{number}/source").status_code == 404
        begun = client.post(f"/v1/sessions/{number}/source", json={"url": url})
        assert (begun.status_code, begun.json()["state"]) == (202, "running")
        found = ended(client, number)
        assert found == {"object": "source", "host": "127.0.0.1", "state": "ended", "frames": 10, "seconds": 4.5,
                         "error": None}  # fmt: skip
        assert client.get(f"/v1/sessions/{number}").json()["frames"] == 10
        again = client.post(f"/v1/sessions/{number}/source", json={"url": url})  # a second stream follows the first
        assert again.status_code == 202
        ended(client, number)
        stats = client.get(f"/v1/sessions/{number}").json()
        assert (stats["frames"], stats["seconds"]) == (20, 9.5)


def test_questions_are_answered_while_a_stream_is_read_and_it_can_be_stopped(bundled: Any, tmp_path: Path) -> None:
    server = make_server(bundled, sources=frozenset({"127.0.0.1"}))
    with client_of(server) as client, rtsp_server(tmp_path, endless=True) as url:
        number = opened(client)
        client.post(f"/v1/sessions/{number}/source", json={"url": url}).raise_for_status()
        assert client.post(f"/v1/sessions/{number}/source", json={"url": url}).status_code == 409
        while client.get(f"/v1/sessions/{number}/source").json()["frames"] < 4:
            time.sleep(0.1)
        assert client.post(f"/v1/sessions/{number}/ask", json={"question": "What?", "max_tokens": 2}).status_code == 200
        stopped = client.delete(f"/v1/sessions/{number}/source").json()
        assert (stopped["state"], stopped["error"]) == ("stopped", None)
        assert client.get(f"/v1/sessions/{number}").status_code == 200


def test_what_goes_wrong_is_told(bundled: Any) -> None:
    server = make_server(bundled, sources=frozenset({"127.0.0.1:9"}))
    with client_of(server) as client:
        number = opened(client)
        for url in ("rtsp://127.0.0.1/a", "http://localhost:9/a", "file:///etc/passwd", "http://[::1", "http://:9"):
            refused = client.post(f"/v1/sessions/{number}/source", json={"url": url})
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_url"), url
        client.post(f"/v1/sessions/{number}/source", json={"url": "http://127.0.0.1:9/a.m3u8"}).raise_for_status()
        found = ended(client, number)
        assert found["state"] == "failed"
        assert "Connection refused" in found["error"]
        assert client.post("/v1/sessions/sess_0/source", json={"url": "http://127.0.0.1:9/a"}).status_code == 404


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9002\0@127.0.0.1:9001/",  # FFmpeg would stop at the null, and connect to port 9002
        "http://127.0.0.1:90\n01/",  # and here to port 90
        "http://127.0.0.1:90\t01/",
        " http://127.0.0.1:9001/",
        "http://127.0.0.1:9002\\@127.0.0.1:9001/",
    ],
)
def test_a_url_that_ffmpeg_would_read_differently_is_refused(bundled: Any, url: str) -> None:
    server = make_server(bundled, sources=frozenset({"127.0.0.1:9001"}))
    with client_of(server) as client:
        refused = client.post(f"/v1/sessions/{opened(client)}/source", json={"url": url})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_url")
        assert "control characters" in refused.json()["error"]["message"]


class Stream:
    """A stream without a process."""

    def __init__(self, frame: Callable[[], Any], killed: threading.Event) -> None:
        self.frame, self.kill = frame, killed.set

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *failure: object) -> None:
        pass


def test_stalled_streams_delay_nobody_else(bundled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """More of them wait than threads of the event loop, whose maximum is 32, could."""
    killed, count = threading.Event(), 34

    def stall() -> None:
        killed.wait(30)

    monkeypatch.setattr(live_sources, "LiveStream", lambda *stream, **options: Stream(stall, killed))
    server = make_server(bundled, sources=frozenset({"127.0.0.1"}), limits=MediaLimits(sources=count))
    picture = io.BytesIO()
    Image.new("RGB", (64, 48)).save(picture, "PNG")
    with client_of(server) as client:
        for _ in range(count):
            begun = client.post(f"/v1/sessions/{opened(client)}/source", json={"url": "http://127.0.0.1/a"})
            assert begun.status_code == 202, begun.text
        began = time.monotonic()
        pushed = client.post(f"/v1/sessions/{opened(client)}/frames", content=picture.getvalue())
        waited = time.monotonic() - began
        killed.set()
    assert pushed.status_code == 200
    assert waited < 15


def test_a_server_that_drains_ends_its_streams(bundled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next frame would otherwise take the session back from the server that has it now."""
    killed, times = threading.Event(), itertools.count()

    def frame() -> Any:
        if killed.wait(0.05):
            raise VideoError("The process that read the stream ended.")
        return float(next(times)), np.zeros((48, 64, 3), np.uint8)

    monkeypatch.setattr(live_sources, "LiveStream", lambda *stream, **options: Stream(frame, killed))
    server = make_server(bundled, sources=frozenset({"127.0.0.1"}), sessions=tmp_path, shared=True)
    with client_of(server) as client:
        number = opened(client)
        client.post(f"/v1/sessions/{number}/source", json={"url": "http://127.0.0.1/a"}).raise_for_status()
        while client.get(f"/v1/sessions/{number}/source").json()["frames"] < 2:
            time.sleep(0.05)
        client.portal.call(server.drain)
        deadline = time.monotonic() + 10
        while is_held(tmp_path / f"{number}.lock") and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.5)
        assert not is_held(tmp_path / f"{number}.lock")
        assert server.sources.find(number).state == "stopped"


def test_a_session_that_is_closed_ends_its_stream(bundled: Any, tmp_path: Path) -> None:
    server = make_server(bundled, sources=frozenset({"127.0.0.1"}))
    with client_of(server) as client, rtsp_server(tmp_path, endless=True) as url:
        number = opened(client)
        client.post(f"/v1/sessions/{number}/source", json={"url": url}).raise_for_status()
        source = server.sources.find(number)
        assert client.delete(f"/v1/sessions/{number}").status_code == 204
        assert source.state == "stopped"
        assert source.task is not None
        assert source.task.done()
