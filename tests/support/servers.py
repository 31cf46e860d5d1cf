"""A server in a thread of the test's process, and clients of it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kvpress_video.serving.server.settings import MIB, ServerSettings

METHOD, BUDGET = "infinipot-v", 96


def settings(**given: Any) -> ServerSettings:
    """Settings for the bundled model."""
    usual = {"method": METHOD, "budget": BUDGET, "memory": 4096 * MIB}
    return ServerSettings(**usual | given)


def make_server(bundled: Any, **given: Any) -> Any:
    """A server of the bundled model, which does not listen."""
    from kvpress_video.serving.server.state import Server

    return Server("bundled", *bundled, settings(**given))


@contextmanager
def client_of(server: Any, **options: Any) -> Iterator[Any]:
    """A client that calls the application without a network."""
    from fastapi.testclient import TestClient

    from kvpress_video.serving.server.app import make_app

    with TestClient(make_app(server), base_url="http://localhost", raise_server_exceptions=False, **options) as client:
        yield client


@contextmanager
def listening(server: Any) -> Iterator[str]:
    """Listen on a free port of loopback, and yield the URL."""
    from kvpress_video.serving.server.listening import Listener

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        running = Listener(server, lambda url: None)
        thread = threading.Thread(target=lambda: asyncio.run(running.serve([free])), daemon=True)
        thread.start()
        deadline = time.monotonic() + 60
        while not running.started and time.monotonic() < deadline:
            time.sleep(0.02)
        assert running.started
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            running.should_exit = True
            thread.join(60)
            assert not thread.is_alive()


@contextmanager
def serving(
    log: Path, *options: str, program: tuple[str, ...] = ("-m", "kvpress_video.cli")
) -> Iterator[tuple[str, Any]]:
    """Run `kvpress-video serve` on a free port, and yield its URL and process once it is ready; kill it at last.

    Args:
        log: for what it writes to stderr.
        *options: of the command.
        program: options of Python that run the command line.
    """
    import httpx

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, *program, "serve", "--budget", str(BUDGET), "--port", str(port)]
    with log.open("w") as file:
        process = subprocess.Popen([*command, *options], stderr=file)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 600
    try:
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            try:
                if httpx.get(f"{url}/ready").json()["ready"]:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        yield url, process
    finally:
        process.kill()
        process.wait()
