"""Run modules temporarily without `torch.compile`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def uncompiled(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Context manager that runs modules eagerly on which `compile()` was called."""
    calls = [(module, module._compiled_call_impl) for module in modules if module._compiled_call_impl is not None]
    try:
        for module, _ in calls:
            module._compiled_call_impl = None
        yield
    finally:
        for module, call in calls:
            module._compiled_call_impl = call
