"""Names with settings, written as text: `"name:setting=value,…"`."""

from __future__ import annotations

import ast
import re
from typing import Any

from ..errors import UnknownNameError

PRESET = "preset"
"""Setting for a named set of others in a class's `presets`."""


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """Split `"name:setting=value,…"` into the name and the settings; values are Python literals, or else strings.

    A word without a value in front of the settings is the setting `PRESET`.

    Raises:
        UnknownNameError: a setting is given twice or has no value.
    """
    name, _, rest = text.partition(":")
    settings: dict[str, Any] = {}
    for number, part in enumerate(filter(None, _split(rest))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals and not number:
            key, equals, value = PRESET, "=", repr(key)
        if key in settings:
            raise UnknownNameError(f"The setting {key!r} is given twice.")
        if not equals:
            raise UnknownNameError(f"Cannot read the setting {part!r}: write name=value.")
        settings[key] = _value(value)
    return name, settings


def spell(name: str, settings: dict[str, Any]) -> str:
    """Write a name and settings as the text from which `parse` reads them, if they have one; a preset is the first."""
    written = ",".join(str(value) if key == PRESET else f"{key}={_spelled(value)}" for key, value in settings.items())
    return f"{name}:{written}" if written else name


def split_list(text: str) -> list[str]:
    """Split `"a,b:setting=1,other=2,c"` into members: a part `name=value` belongs to the member before it."""
    members: list[str] = []
    for part in filter(None, (part.strip() for part in _split(text))):
        if members and re.match(r"\w+\s*=", part):
            members[-1] += "," + part
        else:
            members.append(part)
    return members


def _split(text: str) -> list[str]:
    """Split at the commas outside of brackets; an unmatched closing bracket is an ordinary character."""
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
