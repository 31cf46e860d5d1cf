"""Replace a method of one object temporarily."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch

Method = Callable[..., Any]


class ReplacedMethod:
    """The stand-in for a method of one object.

    A deep copy of the object gets the previous method, bound to the copy, so that it does not call into the original.
    """

    def __init__(self, owner: Any, name: str, stock: Method, call: Method) -> None:
        functools.update_wrapper(self, stock)
        self._owner, self._name, self._call = owner, name, call
        self._instance_attribute = vars(owner).get(name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        owner = memo.get(id(self._owner))
        if owner is None:
            return self
        if self._instance_attribute is not None:
            return copy.deepcopy(self._instance_attribute, memo)
        return MethodType(getattr(type(self._owner), self._name), owner)

    def restore(self) -> None:
        """Restore the object's own method."""
        delattr(self._owner, self._name)
        if self._instance_attribute is not None:
            setattr(self._owner, self._name, self._instance_attribute)


@contextmanager
def replaced(owner: Any, name: str, wrap: Callable[[Method], Method]) -> Iterator[None]:
    """Context manager that replaces `owner.name`; `torch.compile` does not trace into the replacement.

    Args:
        owner: the object; its class is unchanged.
        name: name of the method.
        wrap: makes the replacement from the current bound method.
    """
    stock = getattr(owner, name)
    stand_in = ReplacedMethod(owner, name, stock, torch.compiler.disable(wrap(stock)))
    setattr(owner, name, stand_in)
    try:
        yield
    finally:
        stand_in.restore()
