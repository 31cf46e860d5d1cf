"""Many sessions and requests at once: only 429 fails, memory keeps to its figure, answers are those given alone."""

from __future__ import annotations

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from PIL import Image

import kvpress_video as kv

pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
openai = pytest.importorskip("openai")
httpx = pytest.importorskip("httpx")

from servers import BUDGET, METHOD, listening, make_server  # noqa: E402

from kvpress_video.serving.server.media import MediaLimits  # noqa: E402

CLIENTS = 16
QUESTIONS = ("What was the first shape to flash?", "Where was the heart?", "How many flashes were there?")


@pytest.mark.parametrize(
    ("sessions", "live", "requests"), [(8, 6, 24), pytest.param(64, 48, 200, marks=pytest.mark.slow)]
)
def test_many_sessions_and_requests(bundled: Any, clips: Any, sessions: int, live: int, requests: int) -> None:
    """There is less memory than the sessions take, so that they leave and come back all the time."""
    footage = [kv.read_video(clip.path) for clip in clips]
    probe = make_server(bundled)
    probe.worker.end()
    limits = MediaLimits(size=1 << 20, frames_bytes=4 << 20)
    memory = probe.plan.weights + live * probe.session_bytes
    server = make_server(bundled, memory=memory, queue=8, limits=limits)
    alone = {}
    for place, video in enumerate(footage):
        session = kv.VideoSession(*bundled, METHOD, BUDGET)
        session.push(video.frames, video.times)
        for question in QUESTIONS:
            alone[place, question] = session.ask(question, max_new_tokens=8, keep=False)
    most, statuses = 0, []

    with listening(server) as url:
        client = httpx.Client(base_url=url, timeout=300)

        def post(path: str, **request: Any) -> Any:
            """Post until the server is no longer busy."""
            nonlocal most
            while True:
                answer = client.post(path, **request)
                most = max(most, server.admission.used)
                statuses.append(answer.status_code)
                if answer.status_code != 429:
                    assert answer.is_success, answer.text
                    return answer.json()

        def watch(place: int) -> str:
            number = post("/v1/sessions", json={})["id"]
            video = footage[place % len(footage)]
            for frame, at in zip(video.frames, video.times, strict=True):
                content = io.BytesIO()
                Image.fromarray(frame).save(content, "PNG")
                post(f"/v1/sessions/{number}/frames?time={at}", content=content.getvalue())
            return str(number)

        def ask(place: int) -> None:
            kind, question = place % len(footage), QUESTIONS[place % len(QUESTIONS)]
            if place % 10 == 9:
                link = base64.b64encode(clips[kind].path.read_bytes()).decode()
                part = {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{link}"}}
                content = [part, {"type": "text", "text": question}]
                body = {"model": "bundled", "max_tokens": 8, "messages": [{"role": "user", "content": content}]}
                assert (
                    post("/v1/chat/completions", json=body)["choices"][0]["message"]["content"] == whole[kind, question]
                )
                return
            number = numbers[kind + len(footage) * (place % (sessions // len(footage)))]
            body = {"question": question, "max_tokens": 8, "keep": False}
            assert post(f"/v1/sessions/{number}/ask", json=body)["answer"] == alone[kind, question]

        whole = {
            (place, question): kv.ask(*bundled, video, question, method=METHOD, budget=BUDGET, max_new_tokens=8).text
            for place, video in enumerate(footage)
            for question in QUESTIONS
        }
        with ThreadPoolExecutor(CLIENTS) as clients:
            numbers = list(clients.map(watch, range(sessions)))
            list(clients.map(ask, range(requests)))
        assert server.sessions.count == sessions
        assert server.sessions.live <= live
    assert set(statuses) <= {200, 201, 429}
    assert most <= server.admission.total
