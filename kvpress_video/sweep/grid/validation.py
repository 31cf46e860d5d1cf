"""Checks for the parts of a grid; each returns the canonical value."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from decimal import Decimal
from typing import Any

from ...attention.masks import check_attention
from ...budget import Budget
from ...cache.quantization import canonical
from ...compressor.registry import METHODS, Registry
from ...errors import KVPressVideoError, UnknownNameError, check_choice, unknown_name
from ...models.devices import parse_device
from ...models.loading import check_folder
from ...prefill.options import Labels, Positions, Prefill, Stage
from ...utils.model_names import BUNDLED_NAMES, DTYPES, MODEL_SETTINGS, check_bundled, check_setting
from ...utils.named_settings import PRESET, parse, spell
from ..benchmark import BENCHMARKS

_PLACEMENTS = ("device", "device_map")
_RAISED = (KVPressVideoError, TypeError, ValueError, ImportError)
"""Errors that constructors of methods and benchmarks, third-party ones included, may raise."""


class InvalidValueError(Exception):
    """An invalid value; `path` locates the error inside it."""

    def __init__(self, message: str, *path: str) -> None:
        super().__init__(message)
        self.path = path


def _parsed(value: Any, noun: str) -> tuple[str, dict[str, Any]]:
    """Read a name with settings in any of the accepted forms."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        return parse(value)
    if isinstance(value, Mapping) and len(value) == 1:
        [(text, given)] = value.items()
        if isinstance(text, str) and (given is None or isinstance(given, Mapping)):
            name, settings = parse(text)
            more = {str(key): os.fspath(v) if isinstance(v, os.PathLike) else v for key, v in (given or {}).items()}
            return name, {**settings, **more}
    raise UnknownNameError(
        f"A {noun} is a name, 'name:setting=value,…' or one {{name: {{setting: value}}}}, got {value!r}."
    )


def _canonical(name: str, settings: Mapping[str, Any], order: Sequence[str]) -> str:
    """Write a name with settings in canonical order.

    Raises:
        UnknownNameError: no text reads back as these settings.
    """
    ordered = {setting: settings[setting] for setting in order if setting in settings}
    text = spell(name, ordered)
    try:
        same = parse(text) == (name, ordered)
    except UnknownNameError:
        same = False
    if not same:
        raise UnknownNameError(f"{text!r} does not read as {name} with {ordered}: leave out commas.")
    return text


def _plugin(plugins: Registry[Any]) -> Callable[[Any], str]:
    """Return a check that makes a method or benchmark and returns its canonical text."""

    def check(value: Any) -> str:
        name, settings = _parsed(value, plugins.declared.what)
        try:
            plugins.make(name, **settings)
        except _RAISED as error:
            raise InvalidValueError(str(error), name, *_blamed_setting(str(error), settings)) from error
        order = [PRESET, *(field.name for field in fields(plugins.get(name)))]
        return _canonical(name, plugins.contracted(name, settings), order)

    return check


def _blamed_setting(message: str, settings: Mapping[str, Any]) -> list[str]:
    """Return the first setting that an error message quotes, if any."""
    quoted = [setting for setting in settings if repr(setting) in message]
    return sorted(quoted, key=lambda setting: message.index(repr(setting)))[:1]


def _model(value: Any) -> str:
    name, settings = _parsed(value, "model")
    for setting, chosen in settings.items():
        try:
            _check_model_setting(setting, chosen)
        except KVPressVideoError as error:
            raise InvalidValueError(str(error), name, setting) from error
    if len(placed := [setting for setting in _PLACEMENTS if setting in settings]) > 1:
        raise UnknownNameError(f"Give one of {', '.join(placed)} to {name!r}, not several.")
    if name not in BUNDLED_NAMES:
        check_bundled(name)
        check_folder(name)
    return _canonical(name, settings, MODEL_SETTINGS)


def _check_model_setting(setting: str, value: Any) -> None:
    check_setting(setting)
    if not isinstance(value, str):
        raise UnknownNameError(f"The setting {setting!r} of a model takes a string, got {value!r}.")
    if setting == "dtype" and value not in DTYPES:
        raise unknown_name("dtype", value, DTYPES)
    if setting == "attention":
        check_attention(value)
    if setting == "device":
        _device(value)


def _budget(value: Any) -> str:
    """Write a ratio in percent and other budgets as given; `Budget.parse` reads the text as it reads the value."""
    parsed = Budget.parse(value)
    if parsed.unit == "ratio" and Budget.parse(str(parsed)) == parsed:
        return str(parsed)
    if isinstance(value, str):
        return value.strip()
    return format(Decimal(repr(parsed.exact)), "f") if parsed.unit == "ratio" else str(parsed.exact)


def _seed(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise UnknownNameError(f"A seed is a whole number of at least 0, got {value!r}.")
    return value


def _choice(noun: str, choices: Any) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        check_choice(noun, value, choices)
        return str(value)

    return check


def _device(value: Any) -> str:
    return str(parse_device(value))


def _count(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise UnknownNameError(f"Expected a whole number of at least 1, got {value!r}.")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise UnknownNameError(f"Expected true or false, got {value!r}.")
    return value


def _or_none(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else check(value)


ITEMS: dict[str, Callable[[Any], Any]] = {
    "models": _model,
    "benchmarks": _plugin(BENCHMARKS),
    "methods": _plugin(METHODS),
    "budgets": _budget,
    "seeds": _seed,
    "quantize": canonical,
}
NEEDED = {
    "models": "name at least one, such as 'bundled'",
    "benchmarks": "name at least one, such as 'world'",
    "methods": "name at least one, such as 'infinipot-v'",
    "budgets": "name at least one, such as '25%'",
    "seeds": "give at least one, such as 0",
    "quantize": "give at least one, such as 4, or 'none'",
}
SETUP: dict[str, Callable[[Any], Any]] = {
    "stage": _choice("stage", Stage),
    "prefill": _choice("prefill", Prefill),
    "positions": _choice("positions", Positions),
    "labels": _choice("labels", Labels),
    "device": _or_none(_device),
    "batch": _count,
    "max_new_tokens": _or_none(_count),
    "reuse": _flag,
    "experts": _or_none(_count),
}
