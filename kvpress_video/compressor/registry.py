"""Registry of named classes, found through entry points: the package's own and third parties' alike."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from ..errors import KVPressVideoError, UnknownNameError, unknown_name
from ..utils.entry_points import is_own, package_of
from ..utils.warnings import warn_caller
from .base import Compressor
from .declarations import check_observer

Made = TypeVar("Made")
_ONE = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}
PRESET = "preset"
"""Setting for a named set of others in a class's `presets`."""
_SEVERAL = re.compile(r"tuple\[[^][]*\]( \| None)?")
_PLAIN = _ONE | {f"{name} | None": (*types, type(None)) for name, types in _ONE.items()}


@dataclass(frozen=True)
class Registry(Generic[Made]):
    """The dataclasses that installed packages declare in one entry-point group; their fields are their settings.

    A name that two packages declare stands for the package's own class, otherwise for that of the package first in the
    alphabet; a warning names both packages.

    Attributes:
        group: entry-point group.
        what: noun for one of its members, for messages.
        base: class that every member must derive from.
        listing: command that lists all members; empty if there is none.
    """

    group: str
    what: str
    base: type[Made]
    listing: str = ""

    def names(self) -> list[str]:
        """Return the names of all installed members, sorted."""
        return sorted(self._found())

    def get(self, name: str) -> type[Made]:
        """Load the class behind a name.

        Raises:
            UnknownNameError: no installed package declares the name (the nearest one is suggested), or the package that
                declares it cannot be imported or declares something else; the message names the package.
        """
        points = self._found()
        if name not in points:
            raise unknown_name(self.what, name, points, self.listing)
        declared = f"The {self.what} {name!r} of {package_of(points[name])} ({points[name].value})"
        try:
            loaded = points[name].load()
        except (Exception, SystemExit) as error:
            raise UnknownNameError(
                f"{declared} cannot be loaded: {type(error).__name__}: {error}. Update or uninstall that package."
            ) from error
        if not (isinstance(loaded, type) and issubclass(loaded, self.base)):
            raise UnknownNameError(f"{declared} is not a {self.base.__name__} class.")
        found: type[Made] = loaded
        if not is_dataclass(loaded):
            raise UnknownNameError(f"{declared} is not a dataclass: decorate it with @dataclass(frozen=True).")
        return found

    def make(self, text: str, **settings: Any) -> Made:
        """Make a member from its name and settings, or from `"name:setting=value,…"`; a preset may come first.

        Raises:
            UnknownNameError: an unknown name, preset or setting, or a value that the setting does not take.
            KVPressVideoError: any other error of the package that the class raised, unchanged.
        """
        name, written = parse(text)
        made = self.get(name)
        settings = self.expanded(name, {**written, **settings})
        known = {field.name: str(field.type) for field in fields(made) if field.init}  # type: ignore[arg-type]
        for setting, value in settings.items():
            if setting not in known:
                raise unknown_name(f"setting of {name}", setting, known)
            wanted = _types(known[setting])
            if wanted and (not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted)):
                raise UnknownNameError(f"The setting {setting!r} of {name} takes {known[setting]}, got {value!r}.")
        missing = [field.name for field in fields(made) if _needed(field) and field.name not in settings]  # type: ignore[arg-type]
        if missing:
            raise UnknownNameError(f"{name} needs {', '.join(missing)}: write {name}:{missing[0]}=….")
        try:
            return made(**settings)
        except KVPressVideoError:
            raise
        except Exception as error:
            given = ", ".join(f"{setting}={value!r:.80}" for setting, value in settings.items())
            takes = "".join(f"; {setting} takes {known[setting]}" for setting in settings)
            raise UnknownNameError(f"{name} cannot be made with {given or 'its defaults'}: {error}{takes}") from error

    def expanded(self, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Replace a preset, as `parse` reads it, by the settings it stands for; settings given along with it prevail.

        Raises:
            UnknownNameError: an unknown name, or a preset that the member does not have.
        """
        given = dict(settings)
        preset = given.pop(PRESET, None)
        if preset is None:
            return given
        presets: Mapping[str, Mapping[str, Any]] = getattr(self.get(name), "presets", {})
        if preset not in presets:
            known = f", or one of its presets: {', '.join(sorted(presets))}" if presets else ""
            raise UnknownNameError(f"Cannot read the setting {preset!r} of {name}: write name=value{known}.")
        return {**presets[preset], **given}

    def contracted(self, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Write settings, as `parse` reads them, by their preset: the one that is named or that they equal.

        Settings that a named preset holds already are left out; those that differ from it stay.
        """
        presets: Mapping[str, Mapping[str, Any]] = getattr(self.get(name), "presets", {})
        given = dict(settings)
        preset = given.pop(PRESET, None) or next((each for each, held in presets.items() if held == given), None)
        if preset is None:
            return given
        held = presets[preset]
        changed = {setting: value for setting, value in given.items() if (setting, value) not in held.items()}
        return {PRESET: preset, **changed}

    def _found(self) -> dict[str, EntryPoint]:
        return _points(self.group)


@cache
def _points(group: str) -> dict[str, EntryPoint]:
    """Find the entry points of a group, one for each name."""
    chosen: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=group), key=lambda point: (not is_own(point), package_of(point))):
        used = chosen.setdefault(point.name, point)
        if used.value != point.value:
            warn_caller(
                f"{package_of(used)} and {package_of(point)} both declare {point.name!r} in the entry points "
                f"{group!r}: {used.value} is used, {point.value} is not. Rename the latter."
            )
    return chosen


def _types(annotation: str) -> tuple[type, ...]:
    """Return the types that the annotation of a setting stands for; none for those that only the class can check."""
    if several := _SEVERAL.fullmatch(annotation):
        return (Iterable, type(None)) if several[1] else (Iterable,)
    return _PLAIN.get(annotation, ())


def _needed(field: Field[Any]) -> bool:
    return field.init and field.default is MISSING and field.default_factory is MISSING


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


METHODS = Registry("kvpress_video.methods", "method", Compressor, listing="kvpress-video methods")


def method_names() -> list[str]:
    """Return the names of all installed methods, sorted."""
    return METHODS.names()


def method_class(name: str) -> type[Compressor]:
    """Load the class of a method.

    Raises:
        UnknownNameError: no installed method has that name (the nearest one is suggested), or its package is broken.
    """
    return METHODS.get(name)


def name_of(method: str | Compressor) -> str:
    """Return the name of a method without its settings; of an instance the registered name, or else its class name."""
    if isinstance(method, str):
        return method.partition(":")[0]
    own = f"{type(method).__module__}:{type(method).__qualname__}"
    return next((name for name, point in _points(METHODS.group).items() if point.value == own), type(method).__name__)


def written(method: Compressor) -> str:
    """Write a method as its name and the settings that differ from their defaults."""
    needed = {each.name: getattr(method, each.name) for each in fields(method) if _needed(each)}
    usual = _settings(type(method)(**needed))
    changed = {name: value for name, value in _settings(method).items() if name in needed or value != usual[name]}
    return spell(name_of(method), changed)


def _settings(method: Compressor) -> dict[str, Any]:
    """Return the settings of a method as it describes them, and methods among them as text."""
    given = {each.name: getattr(method, each.name) for each in fields(method) if each.init}
    described = given | method.describe()
    return {name: written(value) if isinstance(value, Compressor) else described[name] for name, value in given.items()}


def make_method(method: str | Compressor, **settings: Any) -> Compressor:
    """Make a method from its name and settings or from `"name:setting=value,…"`, or validate an instance.

    Raises:
        UnknownNameError: an unknown method or setting, or settings given along with an instance.
        MethodError: not a method, or wrongly declared, see `check_observer`.
        MissingInputError: the method needs an input and has no setting for its capture.
    """
    made = METHODS.make(method, **settings) if isinstance(method, str) else method
    check_observer(made)
    if settings and made is method:
        raise UnknownNameError(
            f"{type(method).__name__} is already made: give {', '.join(settings)} to its constructor."
        )
    return made
