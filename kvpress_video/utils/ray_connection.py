"""Connect to a Ray cluster within a context."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from ..errors import KVPressVideoError

_SECONDS_TO_CONNECT = 5


@contextmanager
def connected(ray: Any, address: str | None, error: type[KVPressVideoError]) -> Iterator[None]:
    """Context manager that connects, unless this process is already connected; a Ray started here ends with the
    context.

    Args:
        ray: the module.
        address: as in `ray.init`; by default the cluster of `RAY_ADDRESS` or of this machine, or else a new one.
        error: raised if there is no cluster at the address, or this process is connected to another.
    """
    if ray.is_initialized():
        here = ray.get_runtime_context().gcs_address
        if address not in (None, "auto", here):
            raise error(f"This process is connected to Ray at {here}: leave out the address, got {address!r}.")
        yield
        return
    _check_reachable(address, error)
    try:
        ray.init(address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    except Exception as failure:
        place = address or os.environ.get("RAY_ADDRESS") or "this machine"
        raise error(
            f"Cannot connect to Ray at {place!r}: {failure}. If that cluster checks tokens, set RAY_AUTH_MODE=token."
        ) from failure
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str | None, error: type[KVPressVideoError]) -> None:
    """Check that the port of a cluster is open; `ray.init` would retry for minutes, then end the process."""
    if address in (None, "auto"):
        address = os.environ.get("RAY_ADDRESS")
    if address in (None, "auto", "local"):
        return
    try:
        place = urlsplit(address if "://" in address else f"//{address}")
        socket.create_connection((place.hostname, place.port), _SECONDS_TO_CONNECT).close()
    except (OSError, ValueError, TypeError) as failure:
        raise error(f"No Ray cluster at {address!r}, expected host:port: {failure}.") from failure
