"""Names to methods, through the entry-point group `kvpress_video.methods`, ours and third parties' alike."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from .compressor import Compressor
from .errors import UnknownNameError, unknown_name

GROUP = "kvpress_video.methods"
COMMA_OUTSIDE_BRACKETS = re.compile(r",(?![^(\[]*[)\]])")


def _found() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def method_names() -> list[str]:
    """Names of all installed methods, sorted."""
    return sorted(_found())


def method_class(name: str) -> type[Compressor]:
    """The class behind a method's name.

    Raises:
        UnknownNameError: no installed method has that name; the nearest one is suggested.
    """
    points = _found()
    if name not in points:
        raise unknown_name("method", name, points)
    loaded = points[name].load()
    if not (isinstance(loaded, type) and issubclass(loaded, Compressor)):
        raise UnknownNameError(f"Entry point {name!r} ({points[name].value}) is not a Compressor class.")
    return loaded


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
    name, _, text = method.partition(":")
    made = method_class(name)
    settings = {**_parse_settings(text), **settings}
    known = [field.name for field in fields(made)]
    for setting in settings:
        if setting not in known:
            raise unknown_name(f"setting of {name}", setting, known)
    return made(**settings)


def _parse_settings(text: str) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for part in filter(None, COMMA_OUTSIDE_BRACKETS.split(text)):
        key, equals, value = part.partition("=")
        if not equals:
            raise UnknownNameError(f"Cannot read the setting {part!r}: write name=value.")
        try:
            settings[key.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            settings[key.strip()] = value.strip()
    return settings
