"""Registry of named classes, found through entry points: the package's own and third parties' alike."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any, Generic, TypeVar

from ..errors import KVPressVideoError, UnknownNameError, unknown_name
from ..utils import entry_points
from ..utils.entry_points import EntryPoints, package_of
from ..utils.named_settings import PRESET, parse, spell
from .base import Compressor
from .declarations import check_observer

Made = TypeVar("Made")
_ONE = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}
_SEVERAL = re.compile(r"tuple\[[^][]*\]( \| None)?")
_PLAIN = _ONE | {f"{name} | None": (*types, type(None)) for name, types in _ONE.items()}


@dataclass(frozen=True)
class Registry(Generic[Made]):
    """The dataclasses that installed packages declare in one entry-point group; their fields are their settings.

    Attributes:
        declared: the entry points.
        base: class that every member must derive from.
    """

    declared: EntryPoints
    base: type[Made]

    def names(self) -> list[str]:
        """Return the names of all installed members, sorted."""
        return sorted(self.declared.found())

    def get(self, name: str) -> type[Made]:
        """Load the class behind a name.

        Raises:
            UnknownNameError: no installed package declares the name (the nearest one is suggested), or the package that
                declares it cannot be imported or declares something else; the message names the package.
        """
        point = self.declared.get(name)
        declared = f"The {self.declared.what} {name!r} of {package_of(point)} ({point.value})"
        try:
            loaded = point.load()
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


def _types(annotation: str) -> tuple[type, ...]:
    """Return the types that the annotation of a setting stands for; none for those that only the class can check."""
    if several := _SEVERAL.fullmatch(annotation):
        return (Iterable, type(None)) if several[1] else (Iterable,)
    return _PLAIN.get(annotation, ())


def _needed(field: Field[Any]) -> bool:
    return field.init and field.default is MISSING and field.default_factory is MISSING


METHODS = Registry(entry_points.METHODS, Compressor)


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
    return next((name for name, point in METHODS.declared.found().items() if point.value == own), type(method).__name__)


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
