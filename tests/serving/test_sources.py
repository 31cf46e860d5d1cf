"""Live streams that a server reads into sessions."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from live_streams import hls_server, rtsp_server

pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from servers import client_of, make_server


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
