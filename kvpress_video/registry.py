"""Names to methods, through the entry-point group `kvpress_video.methods`, ours and third parties' alike."""

from __future__ import annotations

from typing import Any

from .compressor import Compressor
from .errors import UnknownNameError
from .plugins import Plugins

METHODS = Plugins("kvpress_video.methods", "method", Compressor)


def method_names() -> list[str]:
    """Names of all installed methods, sorted."""
    return METHODS.names()


def method_class(name: str) -> type[Compressor]:
    """The class behind a method's name.

    Raises:
        UnknownNameError: no installed method has that name; the nearest one is suggested.
    """
    return METHODS.get(name)


def make_method(method: str | Compressor, **settings: Any) -> Compressor:
    """A method from its name and settings, from `"name:setting=value,…"`, or as it is.

    Raises:
        UnknownNameError: unknown method or setting, or settings given beside an already made method.
    """
    if isinstance(method, Compressor):
        if settings:
            raise UnknownNameError(
                f"{type(method).__name__} is already made: give {', '.join(settings)} to its constructor."
            )
        return method
    return METHODS.make(method, **settings)
