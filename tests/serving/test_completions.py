"""Chat completions: the official client, streams, usage, and errors in OpenAI's form."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

import kvpress_video as kv

if TYPE_CHECKING:
    from kvpress_video.benchmarks.world import Clip

pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
openai = pytest.importorskip("openai")

from servers import BUDGET, METHOD, client_of, listening, make_server  # noqa: E402

from kvpress_video.serving.server.choosing import Sampling  # noqa: E402
from kvpress_video.serving.server.completions import Asked  # noqa: E402
from kvpress_video.serving.server.openai_schema import ChatRequest  # noqa: E402

QUESTION = "What was the first shape to flash?"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    from kvpress_video.benchmarks.world import make_clip

    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", 16)


@pytest.fixture(scope="module")
def client(bundled: Any) -> Iterator[Any]:
    with client_of(make_server(bundled)) as client:
        yield client


def data_url(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def video(clip: Clip, **more: Any) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": data_url(clip.path.read_bytes(), "video/mp4"), **more}}


def picture(size: tuple[int, int] = (112, 112), form: str = "PNG") -> dict[str, Any]:
    content = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(content, form)
    return {"type": "image_url", "image_url": {"url": data_url(content.getvalue(), f"image/{form.lower()}")}}


def body(*content: Any, **more: Any) -> dict[str, Any]:
    parts = [*content, {"type": "text", "text": QUESTION}]
    return {"model": "bundled", "messages": [{"role": "user", "content": parts}], "max_tokens": 8, **more}


def test_the_official_client(bundled: Any, clip: Clip) -> None:
    wanted = kv.ask(*bundled, clip.path, QUESTION, method=METHOD, budget=BUDGET, max_new_tokens=8)
    with listening(make_server(bundled)) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
        assert [model.id for model in client.models.list()] == ["bundled"]
        answer = client.chat.completions.create(**body(video(clip)))
        assert answer.choices[0].message.content == wanted.text != ""
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
        assert answer.usage.prompt_tokens > 16 * len(kv.read_video(clip.path)) // 2
        assert answer.model_extra["cache"]["entries"] == BUDGET
        pieces = list(
            client.chat.completions.create(**body(video(clip)), stream=True, stream_options={"include_usage": True})
        )
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == wanted.text
        assert pieces[-1].usage == answer.usage
        assert len({piece.id for piece in pieces}) == 1
        with pytest.raises(openai.NotFoundError) as missing:
            client.chat.completions.create(**body() | {"model": "another"})
        assert missing.value.code == "model_not_found"
        assert missing.value.request_id.startswith("req_")


def test_conversations_with_pictures(client: Any, clip: Clip) -> None:
    first = body(picture(), picture(form="WEBP"), video(clip, fps=1))
    told = client.post("/v1/chat/completions", json=first).json()
    message = told["choices"][0]["message"]
    again = {**first, "messages": [*first["messages"], message, {"role": "user", "content": "And then?"}]}
    second = client.post("/v1/chat/completions", json=again)
    assert second.status_code == 200
    assert second.json()["usage"]["prompt_tokens"] > told["usage"]["prompt_tokens"]


@pytest.mark.parametrize(("budget", "chunk"), [(BUDGET, None), ("1MiB", None), (BUDGET, 8192)])
def test_the_memory_of_a_request_is_known_before(bundled: Any, clip: Clip, budget: Any, chunk: int | None) -> None:
    server = make_server(bundled, budget=budget, chunk=chunk)
    server.worker.end()
    request = ChatRequest.model_validate(body(video(clip)))
    footage = kv.read_video(clip.path)
    done = server.completions.answer(Asked(request, [footage], Sampling(), 8, server.reply(8)))
    text = done.prompt_tokens - done.report.visual_tokens
    assert done.report.peak_bytes <= server.plan.cache(text, 8, shows=True) < 100 * done.report.peak_bytes
    assert footage.frames.nbytes < server.plan.decoded(footage.frames.nbytes) <= server.plan.media(1, 0)


def test_stop_texts_and_limits(client: Any) -> None:
    def answer(**more: Any) -> Any:
        return client.post("/v1/chat/completions", json=body(**more)).json()

    whole = answer()["choices"][0]["message"]["content"]
    stop = whole[len(whole) // 2 :]
    cut = answer(stop=[stop])
    assert cut["choices"][0]["message"]["content"] == whole[: whole.index(stop)].strip()
    assert cut["choices"][0]["finish_reason"] == "stop"
    short = answer(max_tokens=1)
    assert short["choices"][0]["finish_reason"] == "length"
    assert short["usage"]["completion_tokens"] == 1
    sampled = [answer(temperature=2.0, seed=7)["choices"][0]["message"]["content"] for _ in range(2)]
    assert sampled[0] == sampled[1]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "?"}]}, "messages.0"),
        ({"messages": [{"role": "user", "content": [{"type": "file"}]}]}, "messages.0.user.content"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**9}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"n": 2}, "n"),
        ({"tools": []}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format.type"),
    ],
)
def test_wrong_requests_are_told_in_openais_form(client: Any, change: dict[str, Any], param: str) -> None:
    answer = client.post("/v1/chat/completions", json=body() | change)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"].startswith(param)


def test_special_tokens_do_not_come_in_by_text(client: Any) -> None:
    messages = [{"role": "user", "content": "<|im_end|>"}]
    answer = client.post("/v1/chat/completions", json=body() | {"messages": messages})
    assert answer.status_code == 400
    assert "special token" in answer.json()["error"]["message"]


def test_routes_that_are_none(client: Any) -> None:
    assert client.get("/v1/nothing").json()["error"]["type"] == "not_found_error"
    assert client.get("/v1/chat/completions").status_code == 405
    assert client.post("/v1/chat/completions", content=b"{").status_code == 400
    assert client.get("/ready").json() == {"ready": True}


def test_an_internal_error_is_not_disclosed(bundled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server = make_server(bundled)

    def fail(*_: Any) -> None:
        raise ValueError("secret")

    monkeypatch.setattr(server.completions, "prompt", fail)
    with client_of(server) as client:
        answer = client.post("/v1/chat/completions", json=body())
        assert answer.status_code == 500
        assert answer.json()["error"]["type"] == "server_error"
        streamed = client.post("/v1/chat/completions", json=body(stream=True))
        last = streamed.text.strip().splitlines()[-1]
        assert json.loads(last.removeprefix("data: "))["error"]["type"] == "server_error"
        assert "secret" not in answer.text + streamed.text
        assert server.admission.used == 0
