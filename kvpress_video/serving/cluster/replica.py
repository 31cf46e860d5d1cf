"""A replica of Ray Serve: an actor that runs one server in a process, and tells Ray how it is."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from urllib.request import ProxyHandler, build_opener

from ..server.held_files import told
from ..server.membership import member_path
from .process import Job

MORE_SECONDS = 30.0
"""To write sessions, after the time for requests in flight."""
_SECONDS_TO_ANSWER = 10.0
NOT_STARTED = "A server did not start: "


class Replica:
    """Starts the server, and ends it with the replica: the server then hands its sessions over."""

    def __init__(self, job: Job, target: float, host: str | None) -> None:
        """Start, and return once the server accepts requests.

        Args:
            job: what to serve.
            target: sessions in memory that a replica should have.
            host: where to listen; None for the address of this node.

        Raises:
            RuntimeError: the server does not start.
        """
        if host is None:
            from ray.util import get_node_ip_address

            host = get_node_ip_address()
        settings = replace(job.settings, host=host, port=0)
        self._target, self._seconds = target, settings.grace + MORE_SECONDS
        self._process = subprocess.Popen(
            [sys.executable, "-m", Job.__module__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # it has ended, which the next line finds
            self._process.stdin.write(pickle.dumps(pickle.dumps(replace(job, settings=settings))))
            self._process.stdin.flush()
        facts = json.loads(self._process.stdout.readline() or "{}")
        if "server" not in facts:
            self._process.wait()
            reason = facts.get("error", f"its process ended with {self._process.returncode}: see Ray's logs")
            raise RuntimeError(f"{NOT_STARTED}{reason}")
        assert settings.sessions is not None
        self._told, self._url = member_path(settings.sessions, facts["server"]), facts["url"]

    def check_health(self) -> None:
        """Let Ray replace the replica once its server has ended or does not answer.

        Raises:
            RuntimeError: it has ended.
            OSError: it does not answer.
        """
        if self._process.poll() is not None:
            raise RuntimeError(f"The server has ended with {self._process.returncode}.")
        with build_opener(ProxyHandler({})).open(f"{self._url}/health", timeout=_SECONDS_TO_ANSWER):
            pass

    def record_autoscaling_stats(self) -> dict[str, float]:
        """The share of its target that the replica has in memory."""
        return {"load": told(self._told).get("sessions", 0) / self._target}

    @property
    def process(self) -> int:
        """The id of the server's process."""
        return self._process.pid

    def wait(self, seconds: float) -> int:
        """Wait for the end of the server, and return its exit status."""
        return self._process.wait(seconds)

    def close(self) -> None:
        """End the server, which finishes its requests and hands its sessions over; do nothing the second time."""
        self._process.terminate()
        try:
            self._process.wait(self._seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __del__(self) -> None:
        if hasattr(self, "_process"):  # Ray calls this before it ends the actor
            self.close()
