"""Keep the newest entries in shallow layers and the most attended ones in deep layers."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor

from kvpress_video.compressor import Compressor, Entries, Kept, top
from kvpress_video.errors import BudgetError

from ._attention import attention
from ._merging import averaged


@dataclass(frozen=True)
class Hermes(Compressor):
    """Keep the newest entries in shallow layers, those that the probe attends to in deep ones, a blend in between.

    score = (1 − ω)·A + ω·R, where A is the attention of the probe and R = exp(−k·Δ) the recency, both scaled to 0 … 1
    over the cached entries; Δ = (n − 1 − i) / (n − 1) for the i-th of n entries, i from 0. ω is 1 in shallow layers and
    0 in deep ones; in middle layers ω and k decrease linearly. A is averaged over all heads, so all heads of a layer
    keep the same entries. In deep layers the evicted entries are averaged into one entry of the budget.

    With smoothing, the score of an entry is then mixed with the smoothed one of the same token in the next deeper
    layer, score ← (1 − γ)·score + γ·deeper score, from the second deepest layer to the first. A token that the deeper
    layer has evicted keeps its score. Layers are compressed once all of them hold a pass.

    Attributes:
        probe: number of the prompt's last tokens that stand in for a generic question.
        shallow: share of the layers that are shallow.
        deep: share of the layers that are deep; the remaining ones are middle layers.
        recency: ω in the first middle layer and the limit towards which it decreases.
        forgetting: k up to the first middle layer and the limit towards which it decreases.
        summary: whether deep layers average the evicted entries into one.
        smoothing: γ in shallow, middle and deep layers, each from 0 to 1; None for no smoothing.
    """

    probe: int = 5
    shallow: float = 0.1
    deep: float = 0.3
    recency: tuple[float, float] = (0.75, 0.15)
    forgetting: tuple[float, float] = (20.0, 0.5)
    summary: bool = True
    smoothing: tuple[float, float, float] | None = None

    needs: ClassVar[frozenset[str]] = frozenset({"probe", "rope"})
    source: ClassVar[str] = "HERMES, Zhang et al. 2026, arXiv 2601.14724; cross-layer smoothing on request"
    year: ClassVar[int | None] = 2026
    family: ClassVar[str] = "attention"
    fidelity: ClassVar[str] = "mechanism"

    def __post_init__(self) -> None:
        if self.probe < 1:
            raise BudgetError(f"probe must be at least one token, got {self.probe}.")
        if not (min(self.shallow, self.deep) >= 0 and self.shallow + self.deep <= 1):
            raise BudgetError(
                f"shallow and deep are shares of the layers, together at most 1, got {self.shallow} and {self.deep}."
            )
        if len(self.recency) != 2 or not all(0 <= weight <= 1 for weight in self.recency):
            raise BudgetError(f"recency is two weights between 0 and 1, got {self.recency}.")
        if len(self.forgetting) != 2 or not all(0 < rate < float("inf") for rate in self.forgetting):
            raise BudgetError(f"forgetting is two rates above zero, got {self.forgetting}.")
        if self.smoothing is None:
            return
        if len(self.smoothing) != 3 or not all(0 <= share <= 1 for share in self.smoothing):
            raise BudgetError(f"smoothing is three shares between 0 and 1, such as (.1, .3, .4), got {self.smoothing}.")
        object.__setattr__(self, "needs", self.needs | {"deeper"})

    def scores(self, entries: Entries) -> Tensor:
        """Blend attention and recency, (batch, kv_heads, n) fp32.

        Raises:
            MissingInputError: the queries of the probe were not captured.
        """
        weight, rate = self._blend(entries.context.layer, entries.context.layers)
        length = len(entries)
        age = torch.arange(length - 1, -1, -1, device=entries.keys.device) / max(length - 1, 1)
        looked_at = entries.context.spread.mean(attention(entries, "hermes"))
        scores = (1 - weight) * _to_unit(looked_at) + weight * _to_unit((-rate * age).exp())
        return self._smoothed(scores.expand(entries.keys.shape[:3]), entries)

    def _smoothed(self, scores: Tensor, entries: Entries) -> Tensor:
        """Mix scores with those of the next deeper layer."""
        layer, deeper = entries.context.layer, entries.context.deeper
        if self.smoothing is None or deeper is None:
            return scores
        first, deep = self._bounds(entries.context.layers)
        share = self.smoothing[(layer >= first) + (layer >= deep)]
        return (1 - share) * scores + share * deeper.of(entries.index, scores)

    def reduce(self, entries: Entries, keep: int) -> Kept:
        """Keep the highest scores; in deep layers the lowest of them becomes its mean with all evicted entries."""
        scores = self.checked_scores(entries)
        if not (self.summary and self._is_deep(entries) and 0 < keep < len(entries)):
            return Kept(top(scores, keep), scores=scores)
        order = scores.argsort(dim=-1, descending=True, stable=True)
        rest = entries.gather(order[..., keep - 1 :])
        summary = averaged(
            rest, lambda states: states.float().mean(dim=2, keepdim=True), torch.zeros_like(order[..., :1])
        )
        merged = Entries.join([entries.gather(order[..., : keep - 1]), summary], dim=2).in_order()
        return Kept(order[..., :keep].sort(dim=-1).values, merged, scores)

    def _bounds(self, layers: int) -> tuple[int, int]:
        """Return the indices of the first middle layer and of the first deep one."""
        return int(Fraction(str(self.shallow)) * layers), int((1 - Fraction(str(self.deep))) * layers)

    def _is_deep(self, entries: Entries) -> bool:
        return entries.context.layer >= self._bounds(entries.context.layers)[1]

    def _blend(self, layer: int, layers: int) -> tuple[float, float]:
        """Return ω and k of a layer."""
        first, deep = self._bounds(layers)
        if layer < first:
            return 1.0, self.forgetting[0]
        if layer >= deep:
            return 0.0, self.forgetting[1]
        progress = (layer - first) / (deep - first)
        weight, rate = (start + (end - start) * progress for start, end in (self.recency, self.forgetting))
        return weight, rate


def _to_unit(scores: Tensor) -> Tensor:
    """Scale scores to 0 … 1 along the last dimension; 0 if all are equal."""
    low, high = scores.amin(dim=-1, keepdim=True), scores.amax(dim=-1, keepdim=True)
    return (scores - low) / (high - low).clamp_min(1e-30)
