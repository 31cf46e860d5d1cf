"""Weight the scores of a method by what each entry adds to the output of its layer."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor

from kvpress_video.compressor import Entries, top
from kvpress_video.errors import BudgetError, MissingInputError
from kvpress_video.utils.blocks import iter_fp32_blocks

from ._wrapper import ScoreWrapper


@dataclass(frozen=True)
class Critical(ScoreWrapper):
    """Keep half of the budget by the scores of a base method, and the rest by score times ‖W_o·V‖₁.

    The second half maximises (s + `epsilon`)·‖W_o·V‖₁, where s is the score of the base and W_o the part of the layer's
    output projection that belongs to a query head; norms are averaged over the query heads that share a KV head. If the
    base has scores below zero, its lowest score in the head is subtracted from s first.

    Attributes:
        base: method that scores the entries, a name or an instance; must implement `scores()`.
        first: share of the budget that is kept by the scores of the base alone, 0 to 1.
        epsilon: constant added to the scores before they are multiplied, at least 0.
    """

    first: float = 0.5
    epsilon: float = 1e-4

    needs: ClassVar[frozenset[str]] = frozenset({"output_weight"})
    source: ClassVar[str] = "CriticalKV, Feng et al. 2025, arXiv 2502.03805"
    year: ClassVar[int | None] = 2025
    family: ClassVar[str] = "wrapper"
    fidelity: ClassVar[str] = "mechanism"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.first <= 1:
            raise BudgetError(f"first is a share of the budget between 0 and 1, got {self.first}.")
        if not 0 <= self.epsilon < float("inf"):
            raise BudgetError(f"epsilon must be a number from 0, got {self.epsilon}.")

    def scores(self, entries: Entries) -> Tensor:
        """Score entries by (s + ε)·‖W_o·V‖₁, (batch, kv_heads, n) fp32.

        Raises:
            MissingInputError: the output projection was not captured.
        """
        return self._weighted(self._base.checked_scores(entries), entries)

    def ranking(self, entries: Entries, keep: int) -> Tensor:
        """Rank the first share by the scores of the base, then all by weighted score, (batch, kv_heads, n) fp32."""
        scores = self._base.checked_scores(entries)
        first = top(scores, int(self.first * keep))
        return self._weighted(scores, entries).scatter(-1, first, torch.inf)

    def _weighted(self, scores: Tensor, entries: Entries) -> Tensor:
        above = scores.float() - scores.float().amin(dim=-1, keepdim=True).clamp_max(0)
        return (above + self.epsilon) * _output_norms(entries)


def _output_norms(entries: Entries) -> Tensor:
    """Compute ‖W_o·V‖₁, averaged over the query heads of each KV head, (batch, kv_heads, n) fp32."""
    weight = entries.context.output_weight
    if weight is None:
        raise MissingInputError("'critical' needs the output projection: run it inside compress() on a model.")
    found = entries.values.new_zeros(entries.values.shape[:3], dtype=torch.float32)
    heads, shared = weight.shape[:2]
    for where, values in iter_fp32_blocks(entries.values):
        for head, query in product(range(heads), range(shared)):
            found[:, head, where] += (values[:, head] @ weight[head, query].float()).abs().sum(dim=-1)
    return found / shared
