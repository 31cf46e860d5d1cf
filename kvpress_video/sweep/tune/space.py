"""The values that tuning tries for the settings of a method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from ...compressor.registry import METHODS, make_method
from ...errors import KVPressVideoError
from ...utils.named_settings import PRESET, parse, spell

Choices = Mapping[str, tuple[Any, ...]]
"""The values to try of each setting that has several, the default first."""


def choices_of(method: str) -> Choices:
    """List the values to try of each setting of a method.

    Numbers are tried at half and twice their default (shares stay below 1, odd numbers odd), switches both ways, and
    any setting at the values of the method's presets. Values that the method refuses are left out. A setting given in
    the text is fixed.

    Args:
        method: a name, or `"name:setting=value,…"`.

    Raises:
        KVPressVideoError: the method cannot be made.
    """
    name, given = parse(method)
    given, made = METHODS.expanded(name, given), make_method(method)
    presets = getattr(made, "presets", {}).values()
    found = {}
    for field in fields(made):
        if field.name in given or not field.init:
            continue
        default = getattr(made, field.name)
        values = [*_around(default), *(preset[field.name] for preset in presets if field.name in preset)]
        distinct = [value for place, value in enumerate(values) if value not in values[:place]]
        valid = tuple(value for value in distinct if _makes(name, {**given, field.name: value}))
        if len(valid) > 1:
            found[field.name] = valid
    return found


def preset_points(method: str) -> list[dict[str, Any]]:
    """Return the settings of each preset of a method that is named without settings."""
    name, given = parse(method)
    return [] if given else [dict(settings) for settings in METHODS.get(name).presets.values()]


def canonical(method: str, settings: Mapping[str, Any]) -> str:
    """Write a method with settings; those at their defaults are left out, the others stand in the class's order.

    A preset that equals the settings is written in their place, unless the text gives settings of its own.
    """
    name, given = parse(method)
    made = make_method(name)
    chosen = {**METHODS.expanded(name, given), **settings}
    presets = made.presets if given.keys() <= {PRESET} else {}
    for preset, held in presets.items():
        if make_method(name, **held) == make_method(name, **chosen):
            return spell(name, {PRESET: preset})
    order = [field.name for field in fields(made)]
    return spell(name, {key: chosen[key] for key in order if key in chosen and chosen[key] != getattr(made, key)})


def usable(methods: Iterable[str], stage: str) -> list[str]:
    """Return the methods that can be made with the settings they are given, work at a stage, and compress."""
    made = {method: make_method(method) for method in methods if _makes(method, {})}
    return [name for name, method in made.items() if stage in method.stages and not method.keeps_all]


def _around(default: Any) -> tuple[Any, ...]:
    if isinstance(default, bool):
        return default, not default
    if isinstance(default, int) and default > 0:
        odd = default % 2
        return default, max(1, default // 2 | odd), 2 * default + odd
    if isinstance(default, float) and default > 0:
        return default, default / 2, min(2 * default, (1 + default) / 2) if default < 1 else 2 * default
    return (default,)


def _makes(method: str, settings: Mapping[str, Any]) -> bool:
    try:
        make_method(method, **settings)
    except KVPressVideoError:
        return False
    return True
