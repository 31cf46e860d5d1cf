"""Routing of tokens to the experts of a mixture of experts, and how many of them process a token."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ..errors import BudgetError, UnsupportedModelError
from ..utils.numbers import is_whole
from .base import Adapter

Router = Callable[[Tensor], Tensor]
"""Maps embeddings (..., hidden) to the probabilities of all experts, (..., experts) fp32."""


class Mixture(NamedTuple):
    """A layer with experts.

    Attributes:
        number: index of the text layer.
        experts: module that runs the experts, given states (n, hidden), experts (n, k) int64 and weights (n, k).
    """

    number: int
    experts: Any


def first_router(adapter: Adapter) -> Router:
    """Return the routing of the first text layer with experts, applied to embeddings scaled by that layer's norm.

    Raises:
        UnsupportedModelError: the model has no mixture of experts.
    """
    for layer in adapter.text_model.layers:
        weight = getattr(getattr(getattr(layer, "mlp", None), "gate", None), "weight", None)
        if weight is not None:
            return partial(_routed, layer.post_attention_layernorm, weight)
    raise _dense(adapter, "choose a method that needs no router, such as 'diversity'")


def mixtures(adapter: Adapter, count: int) -> list[Mixture]:
    """Return the layers with experts, after checking that `count` experts can process a token.

    Raises:
        BudgetError: the count is not between 1 and the number of experts that the model uses.
        UnsupportedModelError: the model has no experts, or its experts do not receive the ranked experts of each token.
    """
    found = [(number, layer.mlp) for number, layer in enumerate(adapter.text_model.layers)
             if hasattr(getattr(layer, "mlp", None), "experts")]  # fmt: skip
    if not found:
        raise _dense(adapter, "leave experts out")
    most = adapter.text_model.config.num_experts_per_tok
    if not is_whole(count) or not 1 <= count <= most:
        raise BudgetError(f"experts is how many of its {most} experts process a visual token, from 1, got {count!r}.")
    for _, block in found:
        if not {"top_k_index", "top_k_weights"} <= inspect.signature(type(block.experts).forward).parameters.keys():
            raise UnsupportedModelError(
                f"{type(adapter.model).__name__} does not hand each token's experts to {type(block.experts).__name__} "
                "in ranked order: experts= needs transformers 5 and a family that does. Leave experts out."
            )
    return [Mixture(number, block.experts) for number, block in found]


def _dense(adapter: Adapter, cure: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{type(adapter.model).__name__} is dense: it has no experts to which tokens are routed. "
        f"{cure[0].upper()}{cure[1:]}."
    )


@torch.no_grad()
def _routed(norm: nn.Module, weight: Tensor, embeddings: Tensor) -> Tensor:
    return linear(norm(embeddings), weight).float().softmax(dim=-1)
