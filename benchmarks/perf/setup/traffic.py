"""Bytes that operations read and write, counted as torch dispatches them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_WRITE_ONLY = ("aten.copy_", "aten.fill_", "aten.zero_")  # do not read what they overwrite
_LOOK_UP = ("aten.gather", "aten.index_select", "aten.index.")  # read what they return, not all of their source
_FREE = ("aten.empty", "aten.new_empty", "aten.detach", "aten.alias", "aten._unsafe_view")


class Traffic(TorchDispatchMode):
    """A counter of the memory traffic of operations; views cost nothing.

    Attributes:
        bytes: bytes read and written.
        operations: operations other than views.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count it."""
        output = func(*args, **(kwargs or {}))
        name = str(func)
        if not func.is_view and not name.startswith(_FREE):
            given, made = _tensors((args, kwargs)), _tensors(output)
            if name.startswith(_WRITE_ONLY):
                given = given[1:]
            if name.startswith(_LOOK_UP):
                given = [*given[1:], *made]
            self.bytes += sum(map(_bytes, (*given, *made)))
            self.operations += 1
        return output


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _bytes(tensor: Tensor) -> int:
    """Bytes of the memory behind a tensor: dimensions it was expanded along count once."""
    sides = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.element_size() * prod(size for size, stride in sides if stride or not size)


@contextmanager
def counted(owner: Any, name: str) -> Iterator[list[Traffic]]:
    """Count the traffic of every call of a method, in a list that grows while the context is open.

    Args:
        owner: a class.
        name: its method.
    """
    own: Callable[..., Any] = getattr(owner, name)
    calls: list[Traffic] = []

    def run(*args: Any, **kwargs: Any) -> Any:
        with Traffic() as traffic:
            calls.append(traffic)
            return own(*args, **kwargs)

    setattr(owner, name, run)
    try:
        yield calls
    finally:
        setattr(owner, name, own)
