"""Keep the entries that a mixture of experts routes differently from their neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, normalize, pad

from kvpress_video.compressor import Compressor, Entries
from kvpress_video.errors import MissingInputError

from ._grid import grid_slots


@dataclass(frozen=True)
class RouterSimilarity(Compressor):
    """Keep the embeddings whose routing differs most from that of their neighbours in space and time.

    score(i) = −mean of cos(π(i), π(j)) over the other entries j of the 3 × 3 × 3 window of (frames, rows, columns)
    around i, where π is the softmax over all experts of the first layer that has them. An entry alone in its window
    scores 0.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"router"})
    stages: ClassVar[tuple[str, ...]] = ("input",)
    source: ClassVar[str] = "after FastMMoE, arXiv 2511.17885; window, layer and score are ours"
    year: ClassVar[int | None] = 2025
    family: ClassVar[str] = "redundancy"
    fidelity: ClassVar[str] = "analogy"

    def scores(self, entries: Entries) -> Tensor:
        """Score entries by the similarity of their routing, negated, (batch, kv_heads, n) fp32.

        Raises:
            MissingInputError: there is no router.
        """
        router, grid = entries.context.router, entries.grid
        if router is None:
            raise MissingInputError(
                "'router-similarity' needs the router of a mixture of experts: run it inside compress() on a model."
            )
        routing = normalize(router(entries.keys), dim=-1)
        slot = grid_slots(entries)

        def of_window(states: Tensor) -> Tensor:
            """Sum states, (batch, kv_heads, n, width), over the window of each entry."""
            where = slot[..., None].expand_as(states)
            spread = states.new_zeros(*states.shape[:2], grid.tokens, states.shape[-1]).scatter(2, where, states)
            boxes = spread.flatten(0, 1).transpose(1, 2).unflatten(2, grid)
            summed = avg_pool3d(pad(boxes, (1,) * 6), 3, stride=1, divisor_override=1).flatten(2)
            return summed.transpose(1, 2).view_as(spread).gather(2, where)

        others = of_window(torch.ones_like(routing[..., :1]))[..., 0] - 1
        alike = (routing * (of_window(routing) - routing)).sum(dim=-1)
        return -alike / others.clamp_min(1)
