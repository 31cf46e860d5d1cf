"""Servers that are killed, and servers that are told to end: what was told to be saved is there afterwards."""

from __future__ import annotations

import io
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import kvpress_video as kv

pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
httpx = pytest.importorskip("httpx")

from servers import BUDGET, METHOD, serving  # noqa: E402

QUESTION = "What was the first shape to flash?"


class Camera(threading.Thread):
    """Pushes the frames of a video into a session again and again, until the server is gone.

    Attributes:
        number: of the session.
        pushed: frames that the server has accepted.
        saved: frames that it has told to be saved.
    """

    def __init__(self, url: str, video: Any) -> None:
        super().__init__(daemon=True)
        self._client, self._video = httpx.Client(base_url=url, timeout=60), video
        self.number = self._client.post("/v1/sessions", json={}).json()["id"]
        self.pushed = self.saved = 0
        self.start()

    def run(self) -> None:
        contents = [_png(frame) for frame in self._video.frames]
        try:
            while True:
                path = f"/v1/sessions/{self.number}/frames?time={self.pushed / 2}"
                answer = self._client.post(path, content=contents[self.pushed % len(contents)])
                if answer.status_code != 200:
                    return
                told = answer.json()
                self.pushed, self.saved = told["frames"], told["saved"]
        except httpx.TransportError:
            return


def _png(frame: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(frame).save(content, "PNG")
    return content.getvalue()


def _watched(bundled: Any, video: Any, frames: int) -> Any:
    """A session that has seen so many frames, chunk by chunk as they came."""
    session = kv.VideoSession(*bundled, METHOD, BUDGET, keep_turns=4)
    for number in range(frames):
        session.push(video.frames[number % len(video.frames)][None], [number / 2])
    return session


@pytest.mark.parametrize(("rounds", "cameras"), [(1, 3), pytest.param(6, 12, marks=pytest.mark.slow)])
def test_kill_nine_loses_nothing_that_was_told_to_be_saved(
    bundled: Any, clips: Any, tmp_path: Path, rounds: int, cameras: int
) -> None:
    """The server is killed while frames are pushed and sessions written, and started again on the same folder."""
    video, folder = kv.read_video(clips[0].path), tmp_path / "sessions"
    told: dict[str, int] = {}
    named: dict[str, int] = {}
    for number in range(rounds):
        with serving(tmp_path / "log", "--sessions", str(folder), "--save-every", "1") as (url, process):
            alive = {each["id"]: each["saved"] for each in httpx.get(f"{url}/v1/sessions").json()["data"]}
            assert {name for name in told if alive[name]["frames"] < told[name]} == set()
            watching = [Camera(url, video) for _ in range(cameras)]
            deadline = time.monotonic() + 60
            while min(camera.saved for camera in watching) == 0 and time.monotonic() < deadline:
                time.sleep(0.05)
            explicit = watching[number % cameras].number
            answer = httpx.post(f"{url}/v1/sessions/{explicit}/save", timeout=60).json()
            named[answer["saved"]] = watching[number % cameras].saved
            process.send_signal(signal.SIGKILL)
            process.wait(30)
        for camera in watching:
            camera.join(30)
            assert camera.pushed >= camera.saved > 0
            told[camera.number] = camera.saved
    with serving(tmp_path / "log", "--sessions", str(folder)) as (url, _):
        assert list(folder.glob(".*.tmp")) == []
        lost = [name for name in told if httpx.get(f"{url}/v1/sessions/{name}", timeout=60).status_code != 200]
        assert lost == []
        for name, frames in told.items():
            stats = httpx.get(f"{url}/v1/sessions/{name}", timeout=60).json()
            assert stats["frames"] >= frames
            assert stats["seconds"] == (stats["frames"] - 1) / 2  # what came later is to be pushed again
        for name, frames in named.items():
            loaded = httpx.post(f"{url}/v1/sessions", json={"saved": name}, timeout=60).json()["id"]
            assert httpx.get(f"{url}/v1/sessions/{loaded}", timeout=60).json()["frames"] >= frames
        name = next(iter(told))
        frames = httpx.get(f"{url}/v1/sessions/{name}", timeout=60).json()["frames"]
        body = {"question": QUESTION, "max_tokens": 16}
        answer = httpx.post(f"{url}/v1/sessions/{name}/ask", json=body, timeout=60).json()["answer"]
        assert answer == _watched(bundled, video, frames).ask(QUESTION, max_new_tokens=16)


@pytest.mark.slow
def test_sigterm_saves_every_frame_that_was_accepted(clips: Any, tmp_path: Path) -> None:
    """Cameras push until the server refuses: what it accepted is there when it is started again."""
    video, folder = kv.read_video(clips[0].path), tmp_path / "sessions"
    with serving(tmp_path / "log", "--sessions", str(folder)) as (url, process):
        watching = [Camera(url, video) for _ in range(4)]
        deadline = time.monotonic() + 60
        while min(camera.pushed for camera in watching) < 20 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.terminate()
        assert process.wait(60) == -signal.SIGTERM
    for camera in watching:
        camera.join(30)
    with serving(tmp_path / "log", "--sessions", str(folder)) as (url, _):
        saved = {each["id"]: each["saved"]["frames"] for each in httpx.get(f"{url}/v1/sessions").json()["data"]}
        for camera in watching:
            assert saved[camera.number] >= camera.pushed >= 20
