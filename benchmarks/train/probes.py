"""Linear probes, trained with a model as auxiliary losses and discarded afterwards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

TIME = (11, 11, 11)
"""Classes of a visual token's frame time: units, tens and hundreds of the second (or none)."""


class Probe(nn.Module):
    """Classifies every token several times, each time with its own number of classes."""

    def __init__(self, hidden: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.norm = nn.LayerNorm(hidden)
        self.read = nn.Linear(hidden, sum(sizes))

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the summed cross-entropy of the readings; `tokens` (N, hidden), `targets` (N, readings)."""
        readings = self.read(self.norm(tokens)).float().split(self.sizes, dim=-1)
        losses = [functional.cross_entropy(r, t) for r, t in zip(readings, targets.unbind(-1), strict=True)]
        return torch.stack(losses).sum()
