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
        _check_type(name, setting, settings[setting], made)
    return made(**settings)


def _parse_settings(text: str) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for part in filter(None, COMMA_OUTSIDE_BRACKETS.split(text)):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if key in settings:
            raise UnknownNameError(f"The setting {key!r} is given twice.")
        if not equals:
            raise UnknownNameError(f"Cannot read the setting {part!r}: write name=value.")
        try:
            settings[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            settings[key] = value
    return settings


def _check_type(method: str, setting: str, value: Any, made: type[Compressor]) -> None:
    """Raise UnknownNameError if a plain setting (int, float, bool, str) got a value of another type."""
    annotation = next(field.type for field in fields(made) if field.name == setting)
    wanted = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}.get(str(annotation))
    if wanted and (not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted)):
        raise UnknownNameError(f"The setting {setting!r} of {method} takes {annotation}, got {value!r}.")
