"""Names to classes, through entry points: ours and third parties' alike."""

from __future__ import annotations

import ast
import re
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from ..errors import UnknownNameError, unknown_name
from .base import Compressor

Made = TypeVar("Made")
_ONE = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}
_PLAIN = _ONE | {f"{name} | None": (*types, type(None)) for name, types in _ONE.items()}


@dataclass(frozen=True)
class Registry(Generic[Made]):
    """The dataclasses that installed packages declare in one entry-point group; their fields are their settings.

    Attributes:
        group: of the entry points.
        what: one of them, in words, for messages.
        base: what each must be a subclass of.
    """

    group: str
    what: str
    base: type[Made]

    def names(self) -> list[str]:
        """All that are installed, sorted."""
        return sorted(self._found())

    def get(self, name: str) -> type[Made]:
        """The class behind a name.

        Raises:
            UnknownNameError: nothing installed has that name; the nearest one is suggested.
        """
        points = self._found()
        if name not in points:
            raise unknown_name(self.what, name, points)
        loaded = points[name].load()
        if not (isinstance(loaded, type) and issubclass(loaded, self.base)):
            raise UnknownNameError(f"Entry point {name!r} ({points[name].value}) is not a {self.base.__name__} class.")
        return loaded

    def make(self, text: str, **settings: Any) -> Made:
        """One from its name and settings, or from `"name:setting=value,…"`.

        Raises:
            UnknownNameError: unknown name or setting, or a value of another type.
        """
        name, written = parse(text)
        made = self.get(name)
        settings = {**written, **settings}
        known = {field.name: str(field.type) for field in fields(made) if field.init}  # type: ignore[arg-type]
        for setting, value in settings.items():
            if setting not in known:
                raise unknown_name(f"setting of {name}", setting, known)
            wanted = _PLAIN.get(known[setting])
            if wanted and (not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted)):
                raise UnknownNameError(f"The setting {setting!r} of {name} takes {known[setting]}, got {value!r}.")
        missing = [field.name for field in fields(made) if _needed(field) and field.name not in settings]  # type: ignore[arg-type]
        if missing:
            raise UnknownNameError(f"{name} needs {', '.join(missing)}: write {name}:{missing[0]}=….")
        return made(**settings)

    def _found(self) -> dict[str, EntryPoint]:
        return _points(self.group)


@cache
def _points(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}


def _needed(field: Field[Any]) -> bool:
    return field.init and field.default is MISSING and field.default_factory is MISSING


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """The name and the settings in `"name:setting=value,…"`; values are Python literals, or else strings.

    Raises:
        UnknownNameError: a setting is given twice, or has no value.
    """
    name, _, rest = text.partition(":")
    settings: dict[str, Any] = {}
    for part in filter(None, _split(rest)):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if key in settings:
            raise UnknownNameError(f"The setting {key!r} is given twice.")
        if not equals:
            raise UnknownNameError(f"Cannot read the setting {part!r}: write name=value.")
        settings[key] = _value(value)
    return name, settings


def spell(name: str, settings: dict[str, Any]) -> str:
    """What `parse` reads as this name with these settings, where there is such a text."""
    written = ",".join(f"{key}={_spelled(value)}" for key, value in settings.items())
    return f"{name}:{written}" if written else name


def split_list(text: str) -> list[str]:
    """The members of `"a,b:setting=1,other=2,c"`: a part `name=value` belongs to the member before it."""
    members: list[str] = []
    for part in filter(None, (part.strip() for part in _split(text))):
        if members and re.match(r"\w+\s*=", part):
            members[-1] += "," + part
        else:
            members.append(part)
    return members


def _split(text: str) -> list[str]:
    """The parts between commas that are in no bracket; a closing bracket that nothing opened is a character."""
    parts, depth = [""], 0
    for character in text:
        depth = max(0, depth + (character in "([{") - (character in ")]}"))
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _spelled(value: Any) -> str:
    text = str(value)
    plain = type(_value(text)) is type(value) and _value(text) == value and text == text.strip()
    return text if plain else repr(value)


METHODS = Registry("kvpress_video.methods", "method", Compressor)
UNCOMPRESSED, UNCOMPRESSED_BUDGET = "full", "100%"
"""The method that keeps everything, and the budget that it runs at."""


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
