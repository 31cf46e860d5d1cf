"""Fewer experts for visual tokens: only the highest-ranked ones of each token are computed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor

from ..cache.forward_pass import ForwardPass
from ..compressor.entries import Tags, is_visual
from ..models.routing import Mixture
from ..utils.method_patch import replaced

Experts = Callable[[Tensor, Tensor, Tensor], Tensor]
PassOf = Callable[[int], ForwardPass]
"""Returns the pass as seen by a text layer."""


class FewerExperts:
    """The experts of one pass.

    The experts of a layer run twice: on text with all experts chosen by the router, and on visual tokens with the first
        `count` of them, whose weights are scaled to the sum of all.
    """

    def __init__(self, count: int, pass_of: PassOf) -> None:
        """Prepare a pass.

        Args:
            count: experts that process a visual token.
            pass_of: returns the pass as a text layer sees it.
        """
        self._count = count
        self._pass_of = pass_of
        self._orders: dict[int, Tensor] = {}  # tokens, text first, by the pass

    def attached(self, mixture: Mixture) -> AbstractContextManager[None]:
        """Context manager under which the experts of a layer run this way."""
        return replaced(mixture.experts, "forward", partial(self._split, mixture.number))

    def _split(self, number: int, forward: Experts) -> Experts:
        def run(hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
            forward_pass = self._pass_of(number)
            visual = sum(row.visual for row in forward_pass.rows)
            order = self._order(forward_pass).to(hidden_states.device)
            output = torch.empty_like(hidden_states)
            for tokens, count in ((order[: len(order) - visual], top_k_index.shape[-1]),
                                  (order[len(order) - visual :], self._count)):  # fmt: skip
                if len(tokens):
                    weights = top_k_weights[tokens]
                    if count < weights.shape[-1]:
                        weights = _scaled(weights, count)
                    output[tokens] = forward(hidden_states[tokens], top_k_index[tokens, :count], weights)
            return output

        return run

    def _order(self, forward_pass: ForwardPass) -> Tensor:
        """Return the tokens of a pass, rows concatenated, text and probes first, then visual ones: (n,) int64."""
        known = self._orders.get(id(forward_pass))
        if known is None:
            visual = is_visual(forward_pass.tags[..., Tags.KIND])
            visual[:, forward_pass.length - forward_pass.probes :] = False
            known = self._orders[id(forward_pass)] = visual.flatten().argsort(stable=True)
        return known


def _scaled(weights: Tensor, count: int) -> Tensor:
    """Return the first weights of each token, scaled to the sum of all, (n, count)."""
    whole = weights.float()
    first = whole[:, :count]
    return (first * (whole.sum(dim=-1, keepdim=True) / first.sum(dim=-1, keepdim=True))).to(weights)
