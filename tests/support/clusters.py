"""Servers that share a folder, as replicas start them, and a front in a thread of the test's process."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from servers import settings

from kvpress_video.models.loading import load_named
from kvpress_video.serving.server.claims import claimant
from kvpress_video.serving.server.membership import members
from kvpress_video.utils.model_names import BUNDLED

QUESTION = "What was the first shape to flash?"


class Cluster:
    """Replicas without Ray.

    Attributes:
        folder: of their sessions.
        url: of the front.
    """

    def __init__(self, folder: Path) -> None:
        from kvpress_video.serving.cluster.process import Job

        self.folder, self.url = folder, ""
        load = partial(load_named, BUNDLED, device="cpu")
        self._job = Job(load, "bundled", settings(sessions=folder, shared=True, save_every=3600.0))
        self._replicas: list[Any] = []

    def start(self, count: int = 1) -> None:
        """Start servers at the same time, and wait until they are ready."""
        from kvpress_video.serving.cluster.replica import Replica

        with ThreadPoolExecutor(count) as threads:
            self._replicas += threads.map(lambda _: Replica(self._job, 16.0, "127.0.0.1"), range(count))

    @property
    def servers(self) -> dict[str, int]:
        """Processes of the servers that are ready, by their names."""
        return {member.name: member.process for member in members(self.folder)}

    def process_of(self, session: str) -> int:
        """The process that has a session in memory."""
        return self.servers[claimant(self.folder, session) or ""]

    def signal(self, process: int, number: int) -> None:
        """Send a signal to a server, and wait for its end where it is one that ends it."""
        os.kill(process, number)
        if number != signal.SIGSTOP:
            next(each for each in self._replicas if each.process == process).wait(60)

    def close(self) -> None:
        """End all servers."""
        for replica in self._replicas:
            replica.close()


@contextmanager
def cluster(folder: Path, servers: int) -> Iterator[Cluster]:
    """Servers and a front, which end with the context."""
    import uvicorn

    from kvpress_video.serving.cluster.front import Front
    from kvpress_video.serving.server.listening import configuration

    made = Cluster(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        made.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        front = uvicorn.Server(configuration(Front(folder, 1 << 26), settings()))
        thread = threading.Thread(target=lambda: asyncio.run(front.serve([free])), daemon=True)
        try:
            made.start(servers)
            thread.start()
            deadline = time.monotonic() + 60
            while not front.started and time.monotonic() < deadline:
                time.sleep(0.02)
            assert front.started
            yield made
        finally:
            made.close()
            front.should_exit = True
            if thread.ident is not None:
                thread.join(60)


def opened(client: Any) -> str:
    """Open a session, and return its name."""
    answer = client.post("/v1/sessions", json={})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def push(client: Any, session: str, video: Any, first: int, last: int) -> dict[str, Any]:
    """Push frames, two a second, and return the answer to the last."""
    told: dict[str, Any] = {}
    for number in range(first, last):
        content = io.BytesIO()
        Image.fromarray(video.frames[number]).save(content, "PNG")
        answer = client.post(f"/v1/sessions/{session}/frames?time={number / 2}", content=content.getvalue())
        assert answer.status_code == 200, answer.text
        told = answer.json()
    return told


def ask(client: Any, session: str, **options: Any) -> Any:
    """Ask a session, and return the response; the turn is not kept."""
    body = {"question": QUESTION, "max_tokens": 8, "keep": False, **options}
    return client.post(f"/v1/sessions/{session}/ask", json=body)
