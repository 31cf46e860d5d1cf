"""The example server: what is wrong with a request is said, and nothing is left open."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest
from video_files import write_video

pytest.importorskip("uvicorn")
testclient = pytest.importorskip("fastapi.testclient")

from kvpress_video.benchmarks.serving.server import Server, make_app  # noqa: E402


@pytest.fixture(scope="module")
def client(bundled: tuple[Any, Any]) -> Any:
    return testclient.TestClient(make_app(Server(*bundled)), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", size=(112, 112), frames=8, rate=2)


def data_url(content: bytes) -> str:
    return f"data:video/mp4;base64,{base64.b64encode(content).decode()}"


def video(url: object) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": url}}


def ask(client: Any, *parts: Any, role: str = "user", **body: Any) -> Any:
    message = {"role": role, "content": [*parts, {"type": "text", "text": "Where?"}]}
    return client.post("/v1/chat/completions", json={"messages": [message], "max_tokens": 1, **body})


def test_videos_by_path_and_url(client: Any, clip: Path) -> None:
    links = [str(clip), clip.as_uri(), data_url(clip.read_bytes())]
    tokens = [ask(client, video(link)).json()["usage"]["prompt_tokens"] for link in links]
    assert tokens[0] == tokens[1] == tokens[2]
    assert ask(client).json()["usage"]["prompt_tokens"] < tokens[0]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in /proc")
def test_no_file_stays_open(client: Any, clip: Path) -> None:
    link = data_url(clip.read_bytes())
    ask(client, video(link))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(8):
        assert ask(client, video(link)).status_code == 200
        assert ask(client, video(data_url(b"no video"))).status_code == 400
    assert len(os.listdir("/proc/self/fd")) < before + 8  # of 16 requests; threads of the process open some as well


@pytest.mark.parametrize(
    ("link", "reason"),
    [
        ("http://127.0.0.1:9/clip.mp4", "http://127.0.0.1:9/clip.mp4 is not fetched: send a file:// or data: URL"),
        ("https://example.com/clip.mp4", "is not fetched"),
        ("ftp://example.com/clip.mp4", "is not fetched"),
        ("/no/such/clip.mp4", "There is no video /no/such/clip.mp4"),
        ("file:///no/such/clip.mp4", "There is no video file:///no/such/clip.mp4"),
        ("/tmp", "There is no video /tmp"),
        ("a\0b", "There is no video"),
        ("data:video/mp4;base64,?", "is not in base64"),
        ("data:video/mp4;base64,", "A data: URL of a video is"),
        ("data:video/mp4,AAAA", "A data: URL of a video is"),
        (data_url(b"no video"), "cannot be read"),
        (__file__, "cannot be read"),
    ],
)
def test_videos_that_are_none(client: Any, link: str, reason: str) -> None:
    reply = ask(client, video(link))
    assert reply.status_code == 400
    assert reason in reply.json()["detail"]


@pytest.mark.parametrize(
    ("part", "place"),
    [
        ({"type": "video_url"}, "video_url"),
        ({"type": "video_url", "video_url": None}, "video_url"),
        ({"type": "video_url", "video_url": {}}, "url"),
        (video(""), "url"),
        (video(None), "url"),
        ({"type": "text"}, "text"),
        ({"type": "image_url", "image_url": {"url": "a.png"}}, "content"),
        ({}, "content"),
    ],
)
def test_parts_that_are_incomplete(client: Any, part: Any, place: str) -> None:
    reply = ask(client, part)
    assert reply.status_code == 422
    assert any(place in map(str, problem["loc"]) for problem in reply.json()["detail"])


@pytest.mark.parametrize(
    "body",
    [{"messages": []}, {"messages": None}, {"max_tokens": 0}, {"max_tokens": -1}, {"max_tokens": 10**9}, {"role": "x"}],
)
def test_requests_that_are_wrong(client: Any, body: Any) -> None:
    reply = ask(client, **body)
    assert reply.status_code == 422
    assert reply.json()["detail"][0]["msg"]


def test_no_json(client: Any) -> None:
    assert client.post("/v1/chat/completions", content=b"{").status_code == 422
