"""One lock per model: stock models and our hooks keep state of the pass in flight on the model itself."""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakKeyDictionary

_LOCKS: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()
_GUARD = threading.Lock()


def lock_of(model: Any) -> Any:
    """The reentrant lock of a model: whoever runs it with hooks on holds it."""
    with _GUARD:
        return _LOCKS.setdefault(model, threading.RLock())
