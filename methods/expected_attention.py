"""Keep the entries that future queries are expected to attend to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kvpress_video.compressor import Compressor, Entries
from kvpress_video.errors import BudgetError, MissingInputError
from kvpress_video.utils.blocks import iter_fp32_blocks

from ._directions import norms


@dataclass(frozen=True)
class ExpectedAttention(Compressor):
    """Keep the entries with the largest expected attention of future queries, times ‖V‖₂.

    Future queries are taken as Gaussian, with the mean μ and covariance Σ of the last `window` queries before rotation.
    R is the rotation averaged over the next `future` positions. The expected logit of a key k is
    k·Rμ + ½·kᵀRΣRᵀk; score = (softmax over the segment, averaged over the query heads of a KV head, + `epsilon`)·‖V‖₂.

    Attributes:
        window: number of last queries that statistics are taken from, at least 1.
        future: number of positions after the last query that rotations are averaged over, at least 1.
        covariance: whether to use Σ; only μ otherwise.
        value_norm: whether to multiply by ‖V‖₂.
        epsilon: constant added to the expected attention, at least 0.
    """

    window: int = 128
    future: int = 512
    covariance: bool = True
    value_norm: bool = True
    epsilon: float = 0.0

    needs: ClassVar[frozenset[str]] = frozenset({"queries", "rope"})
    source: ClassVar[str] = "Expected Attention, Devoto et al. 2025, arXiv 2510.00636"
    year: ClassVar[int | None] = 2025
    family: ClassVar[str] = "attention"
    fidelity: ClassVar[str] = "mechanism"

    def __post_init__(self) -> None:
        if self.window < 1:
            raise BudgetError(f"window must be at least one query, got {self.window}.")
        if self.future < 1:
            raise BudgetError(f"future must be at least one position, got {self.future}.")
        if not 0 <= self.epsilon < float("inf"):
            raise BudgetError(f"epsilon must be a number from 0, got {self.epsilon}.")

    def scores(self, entries: Entries) -> Tensor:
        """Score entries by expected attention, (batch, kv_heads, n) fp32.

        Raises:
            MissingInputError: no queries, or queries without positions, were captured.
        """
        mean, covariance = self._future_queries(entries)
        logits = mean.new_empty((*mean.shape[:3], len(entries)))
        for where, keys in iter_fp32_blocks(entries.keys):
            keys = keys[:, :, None]
            logits[..., where] = (mean[..., None, :] @ keys.transpose(-1, -2))[..., 0, :]
            if self.covariance:
                logits[..., where] += ((keys @ covariance) * keys).sum(dim=-1) / 2
        scores = logits.softmax(dim=-1).mean(dim=2) + self.epsilon
        return scores * norms(entries.values) if self.value_norm else scores

    def _future_queries(self, entries: Entries) -> tuple[Tensor, Tensor]:
        """Return Rμ, (batch, kv_heads, shared, head_dim), and RΣRᵀ, (batch, kv_heads, shared, head_dim, head_dim)."""
        queries, rope = entries.context.queries, entries.context.rope
        if queries is None or queries.positions is None or rope is None:
            raise MissingInputError(
                "'expected-attention' needs captured queries and their positions: run it inside compress() on a model."
            )
        real = (queries.index >= 0)[:, None, :, None]
        count = real.sum(dim=2, keepdim=True).clamp_min(1)
        states = rope.rotate(queries.states.float(), -queries.positions[:, None]).masked_fill(~real, 0)
        mean = states.sum(dim=2, keepdim=True) / count
        centred = (states - mean).masked_fill(~real, 0)
        covariance = centred.transpose(2, 3) @ centred / count

        width = states.shape[-1]
        ahead = torch.arange(self.future, device=states.device)[:, None, None].expand(-1, 1, 3)
        turned = rope.rotate(torch.eye(width, device=states.device).expand(self.future, -1, -1), ahead).mean(dim=0)
        start = queries.positions.amax(dim=(1, 2)).floor() + 1
        average = rope.rotate(turned.expand(len(start), 1, -1, -1), start[:, None, None, None].expand(-1, 1, 1, 3))
        heads = (entries.keys.shape[1], -1)
        return (
            (mean @ average)[:, :, 0].unflatten(1, heads),
            (average.transpose(2, 3) @ covariance @ average).unflatten(1, heads),
        )
