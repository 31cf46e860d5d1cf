"""Connecting to a Ray cluster: what is told if there is none."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import pytest

from kvpress_video import SweepError
from kvpress_video.utils.ray_connection import connected


def test_a_cluster_that_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("no token")

    ray = SimpleNamespace(is_initialized=lambda: False, init=refuse)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(SweepError, match=f"at '{address}': no token. .* RAY_AUTH_MODE=token"):
            connected(ray, None, SweepError).__enter__()
