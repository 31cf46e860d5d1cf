"""Gradient checkpointing, which switches the cache off in training mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from ..errors import CacheError


def cache_allowed(text_model: Any) -> AbstractContextManager:
    """Suspend the gradient checkpointing of a text model for a pass that needs no gradient, as in `generate()`.

    Raises:
        CacheError: a gradient is needed.
    """
    if not (text_model.training and getattr(text_model, "gradient_checkpointing", False)):
        return nullcontext()
    if torch.is_grad_enabled():
        raise CacheError(
            "Gradient checkpointing leaves no cache to compress in training mode: call the model under "
            "torch.no_grad(), or call model.eval() or model.gradient_checkpointing_disable() first."
        )
    parts = (text_model, *text_model.layers)
    return _without_checkpointing([part for part in parts if getattr(part, "gradient_checkpointing", False)])


@contextmanager
def _without_checkpointing(modules: Sequence[Any]) -> Iterator[None]:
    try:
        for module in modules:
            module.gradient_checkpointing = False
        yield
    finally:
        for module in modules:
            module.gradient_checkpointing = True
