"""The servers under load, each in a separate process, and their requests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from .open_loop import Call

METHOD, BUDGET = "infinipot-v", "96"
_PATIENCE = 300.0


@dataclass(frozen=True)
class Asked:
    """A question about one of the clips.

    Attributes:
        clip: index of the clip.
        question: text of the question.
        tokens: maximum answer length.
    """

    clip: int
    question: str
    tokens: int


@dataclass(frozen=True)
class Target:
    """A running server.

    Attributes:
        name: name in the results.
        url: URL of the server.
        process: process of the server, with its children.
        call: creates the request for a question.
    """

    name: str
    url: str
    process: psutil.Process
    call: Callable[[Asked], Call]

    @property
    def resident(self) -> int:
        """Resident memory of the server and its children in bytes."""
        family = [self.process, *self.process.children(recursive=True)]
        return sum(_resident(each) for each in family)


def _resident(process: psutil.Process) -> int:
    try:
        size: int = process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0
    return size


@contextmanager
def example_server(model: Path, clips: Sequence[Path], *options: str) -> Iterator[Target]:
    """The example server of this folder, stock or patched; it does not stream."""
    command = ["-m", "kvpress_video.benchmarks.serving.server", str(model), *options]
    name = "example server, patched" if options else "example server"
    with _running(lambda port: [*command, "--port", str(port)], "/stats") as (url, process):
        yield Target(name, url, process, lambda asked: _chat(clips, asked, {}))


@contextmanager
def our_server(
    model: Path, clips: Sequence[Path], memory: str, *options: str, checkout: Path | None = None
) -> Iterator[tuple[Target, Target]]:
    """`kvpress-video serve` as two targets: whole videos in each request, and sessions that have watched them.

    Args:
        model, clips: model to serve, and clips to ask about.
        memory: memory of the server.
        *options: further options of the command.
        checkout: checkout of another version to serve with.
    """
    version = "".join(f" ({what})" for what in (" ".join(options), checkout and checkout.name) if what)
    command = [
        "-m",
        "kvpress_video.cli",
        "serve",
        str(model),
        "--name",
        "model",
        "--method",
        METHOD,
        "--budget",
        BUDGET,
    ]
    command += [*options, "--memory", memory, "--allow-folder", str(clips[0].parent)]
    with _running(lambda port: [*command, "--port", str(port)], "/ready", checkout) as (url, process):
        more = {"stream": True, "stream_options": {"include_usage": True}, "model": "model"}
        whole = Target(f"serve, whole videos{version}", url, process, lambda asked: _chat(clips, asked, more))
        sessions = [_watching(url, clip) for clip in clips]

        def call(asked: Asked) -> Call:
            body = {"question": asked.question, "max_tokens": asked.tokens, "keep": False, "stream": True}
            return Call(f"/v1/sessions/{sessions[asked.clip]}/ask", body)

        yield whole, Target(f"serve, sessions{version}", url, process, call)


def _chat(clips: Sequence[Path], asked: Asked, more: dict[str, Any]) -> Call:
    content = [
        {"type": "video_url", "video_url": {"url": str(clips[asked.clip])}},
        {"type": "text", "text": asked.question},
    ]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": asked.tokens, **more}
    return Call("/v1/chat/completions", body)


def _watching(url: str, clip: Path) -> str:
    with httpx.Client(base_url=url, timeout=_PATIENCE) as client:
        number: str = client.post("/v1/sessions", json={}).raise_for_status().json()["id"]
        headers = {"content-type": "video/mp4"}
        path = f"/v1/sessions/{number}/video"
        client.post(path, content=clip.read_bytes(), headers=headers).raise_for_status()
        return number


@contextmanager
def _running(
    command: Callable[[int], list[str]], ready: str, folder: Path | None = None
) -> Iterator[tuple[str, psutil.Process]]:
    """Run a server on a free port with one thread per computation, wait until it responds, and end it afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + _PATIENCE
    with tempfile.TemporaryFile() as log:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(  # modules are found in the folder first
            [sys.executable, *command(port)], stdout=log, stderr=log, env=environment, cwd=folder
        )
        try:
            while not _answers(url + ready):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise RuntimeError(log.read().decode(errors="replace")[-2000:])
                time.sleep(0.2)
            yield url, psutil.Process(process.pid)
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code < 500
    except httpx.TransportError:
        return False
