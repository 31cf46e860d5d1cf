"""Errors returned to clients, in OpenAI's format."""

from __future__ import annotations

from typing import Any

from starlette.requests import ClientDisconnect

from ...errors import CacheError, KVPressVideoError

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
}


class RequestError(Exception):
    """An error response to a request.

    Attributes:
        status: HTTP status.
        message: message for the client.
        param: invalid part of the request.
        code: machine-readable code.
        retry_after: seconds after which the request may succeed.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, Any]:
        """JSON body of the response."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers of the answer."""
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}


def not_written() -> RequestError:
    """Return the error for a folder of sessions that takes no files."""
    return RequestError(
        503,
        "The server cannot write to its folder of sessions, whose disk may be full: try again later.",
        code="not_written",
        retry_after=30,
    )


def as_request_error(error: Exception) -> RequestError:
    """Convert an error to a response; hide the details of unexpected ones."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, ClientDisconnect):
        return RequestError(499, "The client has left.")  # no client reads it
    if isinstance(error, CacheError):
        return RequestError(409, str(error))
    if isinstance(error, KVPressVideoError):
        return RequestError(400, str(error))
    return RequestError(500, "The server failed to answer: its log names the error under this request's id.")
