"""Tell whether a running thread can reach an object: from its target, its arguments, and the frames on its stack."""

from __future__ import annotations

import gc
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from threading import Thread
from types import CodeType, FunctionType, ModuleType
from typing import Any

_MOST = 20_000  # objects looked at


def reaches(thread: Thread, wanted: Any) -> bool:
    """Whether a thread can reach an object.

    References are followed through attributes, containers, closures, and the globals that functions name; not through
    classes and modules. The search ends after `_MOST` objects, and then takes the object for reachable.
    """
    waiting, seen = deque(_roots(thread)), set[int]()
    while waiting:
        item = waiting.popleft()
        if item is wanted or len(seen) == _MOST:
            return True
        if id(item) not in seen and not isinstance(item, type | ModuleType | CodeType):
            seen.add(id(item))
            waiting.extend(_references(item))
    return False


def _roots(thread: Thread) -> Iterator[Any]:
    yield from list(vars(thread).values())
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        yield from list(frame.f_locals.values())
        yield from _named(frame.f_code, frame.f_globals)
        frame = frame.f_back


def _references(item: Any) -> Iterable[Any]:
    if not isinstance(item, FunctionType):
        return gc.get_referents(item)
    bound = (item.__closure__, item.__defaults__, item.__kwdefaults__, item.__dict__)
    return [*bound, *_named(item.__code__, item.__globals__)]


def _named(code: CodeType, names: Mapping[str, Any]) -> Iterator[Any]:
    """Globals that a function, or one defined inside it, names."""
    yield from (names[name] for name in code.co_names if name in names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _named(constant, names)
