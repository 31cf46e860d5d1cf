"""Routing of tokens to the experts of a mixture of experts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ..errors import UnsupportedModelError
from .base import Adapter

Router = Callable[[Tensor], Tensor]
"""Maps embeddings (..., hidden) to the probabilities of all experts, (..., experts) fp32."""


def first_router(adapter: Adapter) -> Router:
    """Return the routing of the first text layer with experts, applied to embeddings scaled by that layer's norm.

    Raises:
        UnsupportedModelError: the model has no mixture of experts.
    """
    for layer in adapter.text_model.layers:
        weight = getattr(getattr(getattr(layer, "mlp", None), "gate", None), "weight", None)
        if weight is not None:
            return partial(_routed, layer.post_attention_layernorm, weight)
    raise UnsupportedModelError(
        f"{type(adapter.model).__name__} is dense: it has no experts to which tokens are routed. Choose a method that "
        "needs no router, such as 'diversity'."
    )


@torch.no_grad()
def _routed(norm: nn.Module, weight: Tensor, embeddings: Tensor) -> Tensor:
    return linear(norm(embeddings), weight).float().softmax(dim=-1)
