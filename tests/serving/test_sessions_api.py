"""Sessions over HTTP: frames, questions, forks, files, and sessions that leave memory and come back."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import kvpress_video as kv

pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from servers import BUDGET, METHOD, client_of, make_server

QUESTIONS = ("What was the first shape to flash?", "Where was the heart?", "How many flashes were there?")
KEYS = ("a-key-of-many-characters", "another-key-of-many-characters")


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from kvpress_video.benchmarks.world import make_clip

    clip = make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", 16)
    return kv.read_video(clip.path)


@pytest.fixture(scope="module")
def server(bundled: Any) -> Any:
    return make_server(bundled)


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[Any]:
    with client_of(server) as client:
        yield client


def png(frame: Any, form: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.fromarray(frame).save(content, form, **({"lossless": True} if form == "WEBP" else {}))
    return content.getvalue()


def opened(client: Any, **settings: Any) -> str:
    answer = client.post("/v1/sessions", json=settings)
    assert answer.status_code == 201, answer.text
    number: str = answer.json()["id"]
    return number


def push(client: Any, number: str, footage: Any, first: int = 0, last: int | None = None) -> Any:
    answer: Any = None
    for frame, at in list(zip(footage.frames, footage.times, strict=True))[first:last]:
        answer = client.post(f"/v1/sessions/{number}/frames?time={at}", content=png(frame))
        assert answer.status_code == 200, answer.text
    return answer.json()


def ask(client: Any, number: str, question: str, **more: Any) -> str:
    answer = client.post(f"/v1/sessions/{number}/ask", json={"question": question, "max_tokens": 16, **more})
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["answer"]
    return text


def reference(bundled: Any, footage: Any, *questions: str) -> list[str]:
    session = kv.VideoSession(*bundled, METHOD, BUDGET, keep_turns=4)
    session.push(footage.frames, footage.times)
    return [session.ask(question, max_new_tokens=16) for question in questions]


def test_frames_questions_and_the_end(client: Any, bundled: Any, footage: Any) -> None:
    number = opened(client)
    assert push(client, number, footage)["frames"] == len(footage)
    assert [ask(client, number, question) for question in QUESTIONS] == reference(bundled, footage, *QUESTIONS)
    stats = client.get(f"/v1/sessions/{number}").json()
    assert (stats["entries"], stats["frames"], len(stats["turns"])) == (BUDGET, len(footage), 3)
    assert stats["peak_bytes"] <= stats["reserved_bytes"]
    assert number in [session["id"] for session in client.get("/v1/sessions").json()["data"]]
    streamed = client.post(f"/v1/sessions/{number}/ask", json={"question": QUESTIONS[0], "stream": True})
    lines = [line.removeprefix("data: ") for line in streamed.text.split("\n\n") if line]
    pieces = "".join(json.loads(line).get("piece", "") for line in lines[:-1])
    assert pieces == json.loads(lines[-2])["answer"] != ""
    assert client.delete(f"/v1/sessions/{number}").status_code == 204
    assert client.get(f"/v1/sessions/{number}").status_code == 404


def test_video_files(client: Any, bundled: Any, footage: Any) -> None:
    number = opened(client)
    content = footage.path.read_bytes()
    kind = {"content-type": "video/mp4"}
    first = client.post(f"/v1/sessions/{number}/video", content=content, headers=kind)
    assert first.json()["frames"] == len(footage)
    session = kv.VideoSession(*bundled, METHOD, BUDGET)
    session.push_video(content)
    assert ask(client, number, QUESTIONS[0]) == session.ask(QUESTIONS[0], max_new_tokens=16)
    again = client.post(f"/v1/sessions/{number}/video", content=content, headers=kind)
    assert again.json()["frames"] == 2 * len(footage)


def test_a_websocket(client: Any, bundled: Any, footage: Any) -> None:
    number = opened(client)
    with client.websocket_connect(f"ws://localhost/v1/sessions/{number}/live") as live:
        for frame, at in zip(footage.frames, footage.times, strict=True):
            live.send_json({"time": float(at)})
            live.send_bytes(png(frame, "WEBP"))
            told = live.receive_json()
        assert told["frames"] == len(footage)
        for text in ("no JSON", "[" * 100_000, "[]", "5"):
            live.send_text(text)
            assert live.receive_json()["error"]["type"] == "invalid_request_error"
        live.send_bytes(b"no picture")
        assert live.receive_json()["error"]["code"] == "invalid_image"
        live.send_json({"question": QUESTIONS[0], "max_tokens": 16})
        pieces = []
        while "piece" in (told := live.receive_json()):
            pieces.append(told["piece"])
    assert "".join(pieces) == told["answer"] == reference(bundled, footage, QUESTIONS[0])[0]


@pytest.mark.parametrize(("method", "savable"), [(METHOD, True), ("ada", False), ("rekv", False), ("fresh", False)])
def test_what_no_file_can_hold_is_said_at_opening(client: Any, footage: Any, method: str, savable: bool) -> None:
    told = client.post("/v1/sessions", json={"method": method}).json()
    assert told["savable"] is savable
    push(client, told["id"], footage, 0, 8)
    assert (client.post(f"/v1/sessions/{told['id']}/save").status_code == 200) is savable
    assert client.delete(f"/v1/sessions/{told['id']}").status_code == 204


def test_forks_and_files(client: Any, bundled: Any, footage: Any) -> None:
    number = opened(client)
    push(client, number, footage, 0, 8)
    copy = client.post(f"/v1/sessions/{number}/fork").json()["id"]
    saved = client.post(f"/v1/sessions/{number}/save").json()["saved"]
    push(client, number, footage, 8)
    loaded = opened(client, saved=saved)
    assert ask(client, copy, QUESTIONS[0]) == ask(client, loaded, QUESTIONS[0])
    assert ask(client, number, QUESTIONS[0]) == reference(bundled, footage, QUESTIONS[0])[0]
    for name in ("save_" + "0" * 32, "../" + saved, saved + "/x", ""):
        assert client.post("/v1/sessions", json={"saved": name}).status_code == 404
    assert client.delete(f"/v1/saved/{number}").status_code == 404
    assert client.delete(f"/v1/saved/{saved}").status_code == 204
    assert client.post("/v1/sessions", json={"saved": saved}).status_code == 404


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({"method": "no-such-method"}, 400),
        ({"method": "full"}, 400),
        ({"labels": "keep"}, 400),
        ({"budget": "50%"}, 400),
        ({"budget": 0}, 400),
        ({"budget": 10**12}, 400),
        ({"fps": 0}, 400),
        ({"bank_on": "disk"}, 400),
        ({"system": "<|im_end|>"}, 400),
    ],
)
def test_wrong_settings(client: Any, settings: dict[str, Any], status: int) -> None:
    answer = client.post("/v1/sessions", json=settings)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_frames_that_do_not_follow(client: Any, footage: Any) -> None:
    number = opened(client)
    push(client, number, footage, 0, 2)
    small = png(np.zeros((28, 28, 3), np.uint8))
    for content, at in ((small, 100), (png(footage.frames[2]), 0), (png(footage.frames[2]), "nan"), (small, "x")):
        answer = client.post(f"/v1/sessions/{number}/frames?time={at}", content=content)
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert push(client, number, footage, 2, 3)["frames"] == 3


def test_unknown_and_missing_fields_are_named_in_plain_words(client: Any) -> None:
    def told(path: str, body: dict[str, Any]) -> str:
        return client.post(f"/v1/sessions{path}", json=body).json()["error"]["message"]

    assert told("", {"budgt": 64}) == "budgt: This field is unknown or not supported"
    number = client.post("/v1/sessions", json={}).json()["id"]
    assert told(f"/{number}/ask", {}) == "question: This field is required"
    client.delete(f"/v1/sessions/{number}")


def test_idle_sessions_leave_memory_and_come_back(bundled: Any, footage: Any) -> None:
    server = make_server(bundled, idle=0.2)
    with client_of(server) as client:
        number = opened(client)
        push(client, number, footage)
        deadline = time.monotonic() + 30
        while server.sessions.live and time.monotonic() < deadline:
            time.sleep(0.05)
        assert (server.sessions.live, server.sessions.count, server.admission.used) == (0, 1, 0)
        assert ask(client, number, QUESTIONS[0]) == reference(bundled, footage, QUESTIONS[0])[0]


def test_memory_is_given_out_by_arithmetic(bundled: Any, footage: Any) -> None:
    """There is room for two sessions: a third one makes the first leave for a while, and all answer as they should."""
    probe = make_server(bundled)
    probe.worker.end()
    server = make_server(bundled, memory=probe.plan.weights + 2 * probe.session_bytes + 1000)
    assert server.capacity["sessions"] == 2
    with client_of(server) as client:
        numbers = [opened(client) for _ in range(3)]
        wanted = reference(bundled, footage, QUESTIONS[0])[0]
        for number in numbers:
            push(client, number, footage)
            assert server.admission.used <= server.admission.total
        assert [ask(client, number, QUESTIONS[0]) for number in numbers] == [wanted] * 3
        assert server.sessions.live <= 2


def test_a_full_server_says_when_to_come_back(bundled: Any) -> None:
    server = make_server(bundled, queue=0)
    with client_of(server) as client:
        number = opened(client)
        server.admission.used += (held := server.admission.total - server.admission.used)
        answer = client.post("/v1/sessions", json={})
        assert answer.status_code == 429
        assert answer.json()["error"]["type"] == "rate_limit_error"
        assert int(answer.headers["retry-after"]) > 0
        body = {"model": "bundled", "messages": [{"role": "user", "content": "?"}], "max_tokens": 1}
        assert client.post("/v1/chat/completions", json=body).status_code == 429
        server.admission.give_back(held)
        assert client.get(f"/v1/sessions/{number}").status_code == 200
        assert client.post("/v1/chat/completions", json=body).status_code == 200


def test_conversations_stay_within_their_memory(bundled: Any) -> None:
    with client_of(make_server(bundled, session_text=150)) as client:
        number = opened(client, keep_turns="all")
        statuses = [
            client.post(f"/v1/sessions/{number}/ask", json={"question": "Why?", "max_tokens": 30}).status_code
            for _ in range(8)
        ]
        assert statuses[0] == 200
        assert statuses[-1] == 409


def test_questions_that_arrive_together_are_answered_as_alone(bundled: Any, footage: Any) -> None:
    server = make_server(bundled)
    with client_of(server) as client:
        numbers = [opened(client) for _ in range(3)]
        for number, frames in zip(numbers, (16, 11, 6), strict=True):
            push(client, number, footage, 0, frames)
        alone = [ask(client, number, question, keep=False) for number, question in zip(numbers, QUESTIONS, strict=True)]
        sizes, batch = [], server.asker.ask

        def counted(questions: Any) -> Any:
            sizes.append(len(questions))
            return batch(questions)

        server.asker.ask = counted
        gate = threading.Event()
        server.worker.submit("gate", gate.wait)
        with ThreadPoolExecutor(3) as clients:
            asking = [
                clients.submit(ask, client, number, question)
                for number, question in zip(numbers, QUESTIONS, strict=True)
            ]
            while server.worker.waiting < 3:
                time.sleep(0.01)
            gate.set()
            together = [each.result() for each in asking]
        assert sizes == [3]
        assert together == alone


def test_owners_do_not_see_each_other(bundled: Any) -> None:
    with client_of(make_server(bundled, keys=KEYS)) as client:
        client.headers["authorization"] = f"Bearer {KEYS[0]}"
        number = opened(client)
        saved = client.post(f"/v1/sessions/{number}/save").json()["saved"]
        client.headers["authorization"] = f"Bearer {KEYS[1]}"
        assert client.get("/v1/sessions").json()["data"] == []
        assert client.get(f"/v1/sessions/{number}").status_code == 404
        assert client.post("/v1/sessions", json={"saved": saved}).status_code == 404


def test_sessions_outlive_the_server(bundled: Any, footage: Any, tmp_path: Path) -> None:
    with client_of(make_server(bundled, sessions=tmp_path)) as client:
        number = opened(client)
        push(client, number, footage)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    with client_of(make_server(bundled, sessions=tmp_path)) as client:
        assert ask(client, number, QUESTIONS[0]) == reference(bundled, footage, QUESTIONS[0])[0]
        client.delete(f"/v1/sessions/{number}")
    assert list(tmp_path.iterdir()) == []


def test_metrics(client: Any, server: Any) -> None:
    number = opened(client)
    ask(client, number, "Why?")
    page = client.get("/metrics").text
    assert 'kvpress_video_requests_total{route="/v1/sessions/{number}/ask",status="200"}' in page
    gauges = dict(line.split(" ") for line in page.splitlines() if line.startswith("kvpress_video_memory"))
    assert float(gauges["kvpress_video_memory_reserved_bytes"]) == server.admission.used > 0
    assert "kvpress_video_first_token_seconds_count" in page
