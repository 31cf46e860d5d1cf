"""Linear probes that train with a model, as auxiliary losses, and are dropped afterwards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

TIME = (11, 11, 11)
"""What a visual token knows of its frame's label: units, tens and hundreds of the second (or none)."""


class Probe(nn.Module):
    """Several readings of every token, each one of so many classes."""

    def __init__(self, hidden: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.norm = nn.LayerNorm(hidden)
        self.read = nn.Linear(hidden, sum(sizes))

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Summed cross-entropy of the readings; `tokens` (N, hidden), `targets` (N, readings)."""
        readings = self.read(self.norm(tokens)).float().split(self.sizes, dim=-1)
        losses = [functional.cross_entropy(r, t) for r, t in zip(readings, targets.unbind(-1), strict=True)]
        return torch.stack(losses).sum()
