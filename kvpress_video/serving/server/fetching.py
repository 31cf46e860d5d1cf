"""Download media from checked addresses, within limits of size, time and redirects."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from contextlib import suppress
from urllib.parse import urljoin

from .addresses import Endpoint, HostRules
from .failures import RequestError

_REDIRECTS = 3
_MOVED = (301, 302, 303, 307, 308)
_PIECE = 1 << 16


class _Connection(http.client.HTTPConnection):
    """A connection to the checked addresses of an endpoint, without resolving its host again."""

    def __init__(self, endpoint: Endpoint, seconds: float) -> None:
        super().__init__(endpoint.host, endpoint.port, timeout=seconds)
        self._endpoint = endpoint
        self._link: socket.socket | None = None  # like `sock`, which is cleared when a response begins

    def connect(self) -> None:
        """Connect to the first address that responds."""
        link, host = _connected(self._endpoint, self.timeout), self._endpoint.host
        if self._endpoint.scheme != "https":
            self.sock = self._link = link
            return
        context = ssl.create_default_context()
        secured = context.wrap_socket(link, server_hostname=host, do_handshake_on_connect=False)
        self.sock = self._link = secured
        secured.do_handshake()

    def abort(self) -> None:
        """Abort the connection from another thread."""
        if self._link is not None:
            with suppress(OSError):
                self._link.shutdown(socket.SHUT_RDWR)


def _connected(endpoint: Endpoint, seconds: float | None) -> socket.socket:
    *others, last = endpoint.addresses
    for address in others:
        with suppress(OSError):
            return socket.create_connection((address, endpoint.port), seconds)
    return socket.create_connection((last, endpoint.port), seconds)


def fetch(url: str, rules: HostRules, most: int, seconds: float) -> bytes:
    """Download a file.

    Args:
        url: http or https.
        rules: rules for the URL and each redirect.
        most: maximum number of bytes.
        seconds: limit for everything except name resolution.

    Raises:
        RequestError: the URL is refused, or the file is missing, too large or too slow.
    """
    deadline = time.monotonic() + seconds
    for _ in range(_REDIRECTS + 1):
        found = _get(rules.endpoint(url), most, deadline)
        if isinstance(found, bytes):
            return found
        url = urljoin(url, found)
    raise _failed(f"it redirects more than {_REDIRECTS} times")


def _get(endpoint: Endpoint, most: int, deadline: float) -> bytes | str:
    """Return the content, or the URL of a redirect."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise _failed("it took too long")
    connection = _Connection(endpoint, left)
    late = threading.Timer(left, connection.abort)
    late.daemon = True
    late.start()
    try:
        connection.request("GET", endpoint.target, headers={"accept": "*/*", "accept-encoding": "identity"})
        answer = connection.getresponse()
        if answer.status in _MOVED and (moved := answer.headers.get("location")):
            return moved
        if answer.status != 200:
            raise _failed(f"its server answers {answer.status}")
        if (answer.length or 0) > most:
            raise _too_large(most)
        return _content(answer, most, deadline)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _failed("it took too long" if time.monotonic() >= deadline else "the connection failed") from error
    finally:
        late.cancel()
        connection.close()


def _content(answer: http.client.HTTPResponse, most: int, deadline: float) -> bytes:
    content = bytearray()
    while piece := answer.read(_PIECE):
        content += piece
        if len(content) > most:
            raise _too_large(most)
    if answer.length:
        raise _failed("it ended early")
    if time.monotonic() >= deadline:  # closing the connection also ends a file of unknown length
        raise _failed("it took too long")
    return bytes(content)


def _too_large(most: int) -> RequestError:
    return RequestError(400, f"The file behind the URL is larger than {most:,} bytes.", code="media_too_large")


def _failed(why: str) -> RequestError:
    return RequestError(400, f"The file behind the URL cannot be fetched: {why}.", code="invalid_url")
