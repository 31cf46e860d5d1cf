"""Real servers over HTTP: the same requests unpatched, patched by one line, and under `kvpress-video run`."""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import kvpress_video as kv

if TYPE_CHECKING:
    from kvpress_video.benchmarks.world import Clip

pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

BUNDLED = str(Path(kv.__file__).parent / "data" / "bundled")
METHOD, BUDGET = "infinipot-v", 96
RUN = [sys.executable, "-m", "kvpress_video.cli", "run", "--method", METHOD, "--budget", str(BUDGET), "--"]
SERVER = [sys.executable, "-m", "kvpress_video.benchmarks.serving.server", BUNDLED]
TRANSFORMERS = tuple(int(part) for part in version("transformers").split(".")[:2])
PATIENCE = 600.0
"""A busy machine may need minutes; a server that ends is noticed at once."""
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""Threads of several servers on few cores wait for each other."""
APPLIED = f"Qwen2_5_VLForConditionalGeneration is compressed from now on: {METHOD} at {BUDGET} tokens"
QUESTION = "What was the first shape to flash?"


@dataclass
class Running:
    """A server's process, where it listens, and the file that it writes to."""

    process: Any
    url: str
    log: Path

    def post(self, clip: Clip, question: str = QUESTION, **body: Any) -> Any:
        """The answer's JSON."""
        link = f"data:video/mp4;base64,{base64.b64encode(clip.path.read_bytes()).decode()}"
        return self.ask([{"type": "video_url", "video_url": {"url": link}}, {"type": "text", "text": question}], **body)

    def ask(self, content: Any, **body: Any) -> Any:
        messages = [{"role": "user", "content": content}]
        response = httpx.post(f"{self.url}/v1/chat/completions", json={"messages": messages, **body}, timeout=PATIENCE)
        assert response.status_code == 200, (response.text, self.log.read_text())
        return response.json()

    def cache_bytes(self, clip: Clip) -> int:
        """Size of a request's cache after the prefill, as measured by the server."""
        self.post(clip, max_tokens=1)
        taken: int = httpx.get(f"{self.url}/stats").json()["cache_bytes"]
        return taken

    def ready(self, page: str) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if httpx.get(self.url + page).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
        raise AssertionError(f"not ready: {self.log.read_text()}")

    def stop(self) -> None:
        """As a service manager does it."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start(command: list[str], log: Path, **environment: str) -> Running:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--port", str(port)], stdout=file, stderr=file, env={**os.environ, **ONE_THREAD, **environment}
        )
    return Running(process, f"http://127.0.0.1:{port}", log)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[dict[str, Running]]:
    commands = {"plain": SERVER, "patched": [*SERVER, "--patch", METHOD, str(BUDGET)], "run": [*RUN, *SERVER]}
    running = {name: start(command, tmp_path / f"{name}.log") for name, command in commands.items()}
    try:
        for server in running.values():
            server.ready("/stats")
        yield running
    finally:
        for server in running.values():
            server.stop()


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Clip]:
    """A clip per length; the first two fit the budget."""
    from kvpress_video.benchmarks.world import make_clip

    folder: Path = tmp_path_factory.mktemp("footage")
    return {frames: make_clip(folder / f"{frames}.mp4", frames) for frames in (4, 6, 16, 48)}


def answer(reply: Any) -> str:
    text: str = reply["choices"][0]["message"]["content"]
    return text


def said(server: Running) -> list[str]:
    """Log lines about models."""
    lines = server.log.read_text().splitlines()
    return [line for line in lines if line.startswith(f"kvpress-video [{server.process.pid}]: ")]


@pytest.mark.slow
def test_servers(servers: dict[str, Running], footage: dict[int, Clip], bundled: Any) -> None:
    """One test, so that the servers start once, wherever the tests of this file run."""
    plain, patched, run = servers.values()
    for compressed in (patched, run):
        check_short_clips_get_the_same_answers(plain, compressed, footage)
        check_long_clips_no_longer_grow_the_cache(plain, compressed, footage)
        check_answers_are_those_of_the_compressed_model(compressed, footage[48], bundled)
        check_clients_at_the_same_time_get_their_own_answers(compressed, footage)
    check_it_says_what_it_did_when_it_is_told_to_end(run)


def check_short_clips_get_the_same_answers(plain: Running, compressed: Running, footage: dict[int, Clip]) -> None:
    for clip in (footage[4], footage[6]):
        for question in [question.text for question in clip.questions[:2]]:
            stock, ours = plain.post(clip, question), compressed.post(clip, question)
            assert answer(stock) == answer(ours) != ""
            assert stock["usage"] == ours["usage"]
    assert answer(plain.ask(QUESTION)) == answer(compressed.ask(QUESTION))


def check_long_clips_no_longer_grow_the_cache(plain: Running, compressed: Running, footage: dict[int, Clip]) -> None:
    before = {frames: plain.cache_bytes(clip) for frames, clip in footage.items()}
    after = {frames: compressed.cache_bytes(clip) for frames, clip in footage.items()}
    per_token = (before[48] - before[16]) // (32 * 16)
    assert before[16] - before[4] == 12 * 16 * per_token
    assert after[4] == before[4]
    assert after[48] == after[16] == before[4] + (BUDGET - 4 * 16) * per_token


def check_answers_are_those_of_the_compressed_model(compressed: Running, clip: Clip, bundled: Any) -> None:
    for question in [question.text for question in clip.questions[:2]]:
        reference = kv.ask(*bundled, kv.read_video(clip.path), question, method=METHOD, budget=BUDGET)
        assert answer(compressed.post(clip, question)) == reference.text


def check_clients_at_the_same_time_get_their_own_answers(server: Running, footage: dict[int, Clip]) -> None:
    requests = [(clip, question.text) for clip in footage.values() for question in clip.questions[:2]]
    alone = [answer(server.post(*request)) for request in requests]
    with ThreadPoolExecutor(6) as clients:
        together = list(clients.map(lambda request: answer(server.post(*request)), requests))
    assert together == alone


def check_it_says_what_it_did_when_it_is_told_to_end(run: Running) -> None:
    run.stop()
    applied, done = said(run)
    assert applied.endswith(
        f"Qwen2_5_VLForConditionalGeneration is compressed from now on: {METHOD} at {BUDGET} tokens"
    )
    counts = re.search(r"Qwen2_5_VLForConditionalGeneration: requests: (\d+), prefills: (\d+), ", done)
    assert counts is not None, done
    assert int(counts[1]) == int(counts[2]) + 1 == 27
    assert run.process.returncode == -signal.SIGTERM


DECODERS = '''
"""Stand-ins for torchcodec, without which transformers decodes nothing that comes by URL."""
import os

if "KVPRESS_VIDEO_RUN" in os.environ:
    import numpy
    import transformers.processing_utils
    from transformers.video_processing_utils import BaseVideoProcessor
    from transformers.video_utils import load_video

    def fetch_videos(self, videos, sample_indices_fn=None):
        if isinstance(videos, list):
            return list(zip(*[self.fetch_videos(video, sample_indices_fn) for video in videos]))
        return load_video(videos, backend="pyav", sample_indices_fn=sample_indices_fn)

    BaseVideoProcessor.fetch_videos = fetch_videos
    transformers.processing_utils.load_audio = lambda *args, **kwargs: numpy.zeros(16000, dtype="float32")
'''


@pytest.mark.skipif(TRANSFORMERS < (5, 20), reason="older ones need more packages to serve, or take no videos")
def test_transformers_serve_is_compressed(bundled: Any, footage: dict[int, Clip], tmp_path: Path) -> None:
    pytest.importorskip("openai")
    (tmp_path / "sitecustomize.py").write_text(DECODERS)
    serve = [str(Path(sys.executable).with_name("transformers")), "serve", BUNDLED, "--device", "cpu"]
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    server = start([*RUN, *serve], tmp_path / "log", PYTHONPATH=path)
    try:
        server.ready("/health")
        for frames, clip in footage.items():
            video = {"type": "video_url", "video_url": {"url": str(clip.path)}}
            content = [video, {"type": "text", "text": QUESTION}]
            wanted = kv.ask(*bundled, kv.read_video(clip.path), QUESTION, method=METHOD, budget=BUDGET)
            reply = server.ask(content, model=BUNDLED, chat_template_kwargs={"num_frames": 2 * frames}, max_tokens=64)
            assert answer(reply) == wanted.text
    finally:
        server.stop()
    applied, done = said(server)
    assert applied.endswith(
        f"Qwen2_5_VLForConditionalGeneration is compressed from now on: {METHOD} at {BUDGET} tokens"
    )
    tokens = 16 * sum(footage)
    assert f"requests: 4, prefills: 4, visual tokens: {tokens}; the latest cache: {BUDGET} visual entries" in done
