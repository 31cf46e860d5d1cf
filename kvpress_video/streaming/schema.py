"""What a session's facts look like, so that those read from a file are checked before anything is built of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, NewType, TypedDict, get_args, get_origin, get_type_hints

from ..cache.forward_pass import RowState
from ..errors import CacheError
from .conversation import Turn
from .timeline import Timeline

AnyWhole = NewType("AnyWhole", int)


class RecipeFacts(TypedDict):
    """What a session was made with; the method's settings come beside it."""

    method: str
    budget: str | int | None
    positions: Literal["keep", "compact"]
    chunk: int | None
    fps: float
    system: str | None
    text_room: int
    position_limit: int | None
    bank_on: str


class StreamFacts(TypedDict):
    """What is known of a cache, with a row for each layer."""

    logical: int
    rows: list[RowState]
    timeline: Timeline
    peak_bytes: int


class TalkFacts(TypedDict):
    """What is known of a conversation."""

    turns: list[Turn]
    begun: bool
    watching: bool
    unsaid: list[int]


class InboxFacts(TypedDict):
    """What is known of the frames that came, beside those that wait."""

    count: int
    last_time: float | None
    size: tuple[int, int] | None
    told: float
    untold: AnyWhole


class SessionFacts(TypedDict):
    """The facts of a session's snapshot."""

    recipe: dict[str, Any]
    stream: StreamFacts
    talk: TalkFacts
    inbox: InboxFacts


def is_plain(value: Any) -> bool:
    """Whether JSON gives a value back as it was, but for tuples, which become lists."""
    if isinstance(value, (list, tuple)):
        return all(is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(name, str) and is_plain(item) for name, item in value.items())
    return value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value))


_LEAVES: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    Any: ("a plain value", is_plain),
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: ("a whole number from 0", lambda value: type(value) is int and value >= 0),
    float: ("a number", lambda value: type(value) in (int, float) and math.isfinite(value)),
    str: ("text", lambda value: isinstance(value, str)),
    AnyWhole: ("a whole number", lambda value: type(value) is int),
    NoneType: ("null", lambda value: value is None),
}


def check_recipe(recipe: Mapping[str, Any]) -> None:
    """As `check`, for a recipe with the method's settings in it."""
    check(
        {name: recipe[name] for name in get_type_hints(RecipeFacts) if name in recipe},
        RecipeFacts,
        "facts.session.recipe",
    )


def check(value: Any, wanted: Any, name: str) -> None:
    """See to it that a value read from JSON has a type: a leaf (whole numbers are counts, never below zero), a union, a
    literal, a list, a tuple, a mapping, or a class with annotated fields.

    Args:
        value: as `json.loads` gives it.
        wanted: the type.
        name: of the value, for messages.

    Raises:
        CacheError: it has not, or something in it.
    """
    parts = _parts(value, wanted)
    if parts is None:
        found = f"one with {', '.join(value) or 'nothing'}" if isinstance(value, dict) else repr(value)
        raise CacheError(f"{name} should be {_described(wanted)}, not {found:.120}")
    for part, (inside, its) in parts.items():
        check(inside, its, name + part)


def _parts(value: Any, wanted: Any) -> dict[str, tuple[Any, Any]] | None:
    """What is in a value, by name, and the type that it should have; None where the value itself does not fit."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if wanted in _LEAVES:
        return {} if _LEAVES[wanted][1](value) else None
    if origin is UnionType:
        return {"": (value, next((option for option in inner if _parts(value, option) is not None), inner[0]))}
    if origin is Literal:
        return {} if value in inner else None
    if origin in (dict, Mapping):
        fits = isinstance(value, dict) and (inner[0] is str or all(key.isdecimal() for key in value))
        return {f".{key}": (item, inner[1]) for key, item in value.items()} if fits else None
    if origin is None and not issubclass(wanted, tuple):
        fields = get_type_hints(wanted)
        fits = isinstance(value, dict) and value.keys() == fields.keys()
        return {f".{field}": (value[field], its) for field, its in fields.items()} if fits else None
    if not isinstance(value, list):
        return None
    types = inner if origin else tuple(get_type_hints(wanted).values())
    types = types[:1] * len(value) if origin is list or ... in inner else types
    if len(value) != len(types):
        return None
    return {f"[{number}]": pair for number, pair in enumerate(zip(value, types, strict=True))}


def _described(wanted: Any) -> str:
    if wanted in _LEAVES:
        return _LEAVES[wanted][0]
    if get_origin(wanted):
        return str(wanted)
    return f"a {wanted.__name__} with {', '.join(get_type_hints(wanted))}"
