"""Gradient checkpointing, which switches the cache off in training mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..errors import CacheError


@contextmanager
def cache_allowed(text_model: Any) -> Iterator[None]:
    """Suspend the gradient checkpointing of a text model for a pass that needs no gradient, as in `generate()`.

    Raises:
        CacheError: a gradient is needed.
    """
    if not (text_model.training and getattr(text_model, "gradient_checkpointing", False)):
        yield
        return
    if torch.is_grad_enabled():
        raise CacheError(
            "Gradient checkpointing leaves no cache to compress in training mode: call the model under "
            "torch.no_grad(), or call model.eval() or model.gradient_checkpointing_disable() first."
        )
    modules = [part for part in (text_model, *text_model.layers) if getattr(part, "gradient_checkpointing", False)]
    try:
        for module in modules:
            module.gradient_checkpointing = False
        yield
    finally:
        for module in modules:
            module.gradient_checkpointing = True
