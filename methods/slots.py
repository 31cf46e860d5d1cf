"""Keep the entry that each of many slots attends to most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from kvpress_video.compressor import Compressor, Entries, top
from kvpress_video.errors import BudgetError

from ._directions import directions
from ._rotation import unrotated


@dataclass(frozen=True)
class Slots(Compressor):
    """Group entries by slot attention without parameters, and keep those that represent the groups.

    S = ⌈C / top_k⌉ slots start at entries chosen farthest first, and compete for the entries: in each iteration the
    softmax of cos(slot, K̂) / temperature runs over the slots, is normalised over the entries, and each slot moves to
    the mean that it weighs. At the end the `top_k` entries that each slot attends to most stay; where slots agree, the
    entries with the highest mean attention over slots fill the budget. Keys are un-rotated.

    Attributes:
        top_k: entries of each slot, at least 1.
        iterations: at least 1.
        temperature: temperature of the softmax over slots, above zero.
    """

    top_k: int = 1
    iterations: int = 3
    temperature: float = 0.1

    needs: ClassVar[frozenset[str]] = frozenset({"rope"})
    stages: ClassVar[tuple[str, ...]] = ("cache", "input")
    source: ClassVar[str] = "after OC-VTP, arXiv 2511.20439; slots without parameters, on cached keys, are ours"
    year: ClassVar[int | None] = 2025
    family: ClassVar[str] = "redundancy"
    fidelity: ClassVar[str] = "mechanism"

    def __post_init__(self) -> None:
        for name, value in (("top_k", self.top_k), ("iterations", self.iterations)):
            if value < 1:
                raise BudgetError(f"{name} must be at least 1, got {value}.")
        if not 0 < self.temperature < float("inf"):
            raise BudgetError(f"temperature must be above zero, got {self.temperature}.")

    def select(self, entries: Entries, keep: int) -> Tensor:
        """Select the entries that stay: (batch, kv_heads, keep) int64, ascending."""
        features = directions(unrotated(entries))
        slots = _farthest_first(features, max(1, -(-keep // self.top_k)))
        for _ in range(self.iterations):
            attention = self._attention(slots, features)
            slots = normalize(attention @ features, dim=-1)
        attention = self._attention(slots, features)
        picked = attention.topk(min(self.top_k, keep), dim=-1).indices.flatten(2)
        return top(attention.mean(dim=2).scatter(-1, picked, torch.inf), keep)

    def _attention(self, slots: Tensor, features: Tensor) -> Tensor:
        """Attend from slots (batch, kv_heads, s, head_dim) to features, (batch, kv_heads, s, n); rows sum to 1."""
        shares = (slots @ features.transpose(-1, -2) / self.temperature).softmax(dim=2) + 1e-5
        return shares / shares.sum(dim=-1, keepdim=True)


def _farthest_first(features: Tensor, count: int) -> Tensor:
    """Choose features one by one, each the least like those before it; the first is the least like the mean.

    Args:
        features: unit vectors, (batch, kv_heads, n, head_dim) fp32.
        count: how many to choose.

    Returns:
        (batch, kv_heads, count, head_dim) fp32.
    """

    def at(chosen: Tensor) -> Tensor:
        return features.gather(2, chosen[..., None].expand(-1, -1, -1, features.shape[-1]))

    alike = (features * features.mean(dim=2, keepdim=True)).sum(dim=-1)
    picked = [at(alike.argmin(dim=-1, keepdim=True))]
    nearest = (features * picked[0]).sum(dim=-1)
    while len(picked) < count:
        picked.append(at(nearest.argmin(dim=-1, keepdim=True)))
        nearest = torch.maximum(nearest, (features * picked[-1]).sum(dim=-1))
    return torch.cat(picked, dim=2)
