"""Read request bodies and validate their JSON."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from .failures import RequestError

Parsed = TypeVar("Parsed", bound=BaseModel)

_PLAIN = {"extra_forbidden": "This field is unknown or not supported", "missing": "This field is required"}


async def parsed(request: Request, kind: type[Parsed]) -> Parsed:
    """Read the body of a request as JSON.

    Raises:
        RequestError: it is not JSON or does not match the schema; the message does not repeat the input.
    """
    try:
        return kind.model_validate_json(await request.body() or b"{}")
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or None
        raise RequestError(400, f"{place or 'body'}: {_PLAIN.get(first['type'], first['msg'])}", param=place) from error
